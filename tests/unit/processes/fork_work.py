"""Work for the fork server of the tests: a job's body says what to do."""

import os
import resource
import signal
import time

from trtllm_openai.processes.fork_server import Work


def load(setup: bytes) -> Work:
    if setup == b"fails":
        raise ValueError("cannot be loaded")
    loaded_by = os.getpid()

    def work(body: bytes) -> bytes:
        what, _, argument = body.decode().partition(" ")
        match what:
            case "echo":
                return setup + argument.encode()
            case "spin":
                while not argument or time.process_time() < float(argument):
                    pass
                return b"done"
            case "sleep":
                with open(argument, "w") as file:
                    file.write(str(os.getpid()))
                time.sleep(60)
            case "allocate":
                return str(len(bytearray(int(argument)))).encode()
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "raise":
                raise KeyError(argument)
            case "answer":
                return b"x" * int(argument)
            case "end-server":
                if not os.path.exists(argument):
                    os.close(os.open(argument, os.O_CREAT))
                    os.kill(loaded_by, signal.SIGKILL)
                return b"the second time"
            case "end-every-server":
                os.kill(loaded_by, signal.SIGKILL)
            case "bounds":
                with open("/proc/self/oom_score_adj") as file:
                    score = file.read().strip()
                stack, core = (
                    resource.getrlimit(one)[0] for one in (resource.RLIMIT_STACK, resource.RLIMIT_CORE)
                )
                return f"{stack} {core} {score} {os.environ['CUDA_VISIBLE_DEVICES']}".encode()
        return b""

    return work
