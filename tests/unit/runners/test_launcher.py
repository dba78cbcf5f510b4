"""Launchers: a runner behind tcp://, with authentication, and runners that do not end as they should."""

import asyncio
import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.unit.runners.test_pool import drain, pool, request, run, spec, until
from trtllm_openai.engine_host.loader import ModelFiles
from trtllm_openai.engine_host.messages import CANNOT_START, SPEC_VARIABLE, LaunchSpec
from trtllm_openai.processes import keep_running
from trtllm_openai.processes.authentication import new_secret
from trtllm_openai.processes.environment import child_environment
from trtllm_openai.processes.tls import new_identity
from trtllm_openai.runners import RunnerPool
from trtllm_openai.runners import launcher as launcher_module
from trtllm_openai.runners import process as process_module
from trtllm_openai.runners.connection import ConnectionEvents, RunnerConnection
from trtllm_openai.runners.generation import Generation
from trtllm_openai.runners.launcher import SubprocessHandle, SubprocessLauncher, directory_for_sockets, spawn
from trtllm_openai.runners.state import Endpoint, Phase


class TcpLauncher:
    """Starts runners as on another machine, except that it is this one. Implements `Launcher`."""

    def __init__(self, *, encrypted: bool = False, host: str = "127.0.0.1") -> None:
        self.encrypted = encrypted
        self.host = host
        self.specs: list[LaunchSpec] = []
        self.handles: list[SubprocessHandle] = []

    async def start(self, spec: LaunchSpec) -> SubprocessHandle:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        told = msgspec.structs.replace(spec, address=f"tcp://{self.host}:{port}")
        self.specs.append(told)
        self.handles.append(await spawn(told))
        return self.handles[-1]

    def close(self) -> None:
        """Nothing is shared."""


class ScriptLauncher:
    """Runs a script instead of the engine host, and the engine host once the script is None."""

    encrypted = False

    def __init__(self, directory: Path, script: str) -> None:
        self.script: str | None = script
        self.path = str(directory / "same.sock")
        self.handles: list[SubprocessHandle] = []

    async def start(self, spec: LaunchSpec) -> SubprocessHandle:
        path = self.path.replace("same", str(len(self.handles)))
        told = msgspec.structs.replace(spec, address=f"unix:{path}")
        if self.script is None:
            handle = await spawn(told)
        else:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", self.script, path),
                stdin=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
            handle = SubprocessHandle(process, told.address)
        self.handles.append(handle)
        return handle

    def close(self) -> None:
        """The directory is pytest's."""


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "TLS"])
def test_a_runner_behind_tcp_serves(encrypted: bool) -> None:
    async def test() -> None:
        launcher = TcpLauncher(encrypted=encrypted)
        async with pool(2, launcher=launcher) as (subject, _):
            assert {one.address.partition(":")[0] for one in launcher.specs} == {"tcp"}
            assert len({one.secret for one in launcher.specs}) == 2
            generations = [subject.submit([request(subject, 7)]) for _ in range(4)]
            for generation in generations:
                outputs = await drain(generation)
                assert sum(len(output.token_ids) for output in outputs) == 7
            assert [runner.phase for runner in subject.runners] == ["ready", "ready"]

    run(test())


def test_a_killed_runner_behind_tcp_is_replaced_with_another_secret() -> None:
    async def test() -> None:
        launcher = TcpLauncher()
        async with pool(launcher=launcher) as (subject, _):
            pid = subject.runners[0].pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await until(lambda: subject.restarts == 1 and subject.status().ready == 1)
            assert launcher.specs[0].secret != launcher.specs[1].secret
            assert await drain(subject.submit([request(subject, 3)]))

    run(test())


@pytest.mark.parametrize("secret", ["", new_secret()], ids=["none", "another"])
def test_a_connection_without_the_secret_is_refused(secret: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    async def test() -> None:
        launcher = TcpLauncher()
        async with pool(launcher=launcher) as (subject, _):
            heard: list[object] = []
            events = ConnectionEvents(
                lambda _, message: heard.append(message), heard.append, lambda *_: False
            )
            intruder = RunnerConnection(Endpoint(launcher.specs[0].address, secret), events)
            intruder.open()
            await until(lambda: "was not authenticated" in caplog.text)
            assert not intruder.connected
            assert heard == []
            intruder.close("", lost=False)
            assert await drain(subject.submit([request(subject, 3)]))  # the others are not disturbed

    run(test())


async def _relay(source: asyncio.StreamReader, to: asyncio.StreamWriter, seen: bytearray) -> None:
    while piece := await source.read(65536):
        seen.extend(piece)
        to.write(piece)
    to.close()


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "TLS"])
def test_what_is_seen_on_the_way_to_a_runner(encrypted: bool) -> None:
    async def test() -> None:
        launcher = TcpLauncher(encrypted=encrypted)
        async with pool(launcher=launcher) as (subject, _):
            seen, heard = bytearray(), list[object]()
            (told,) = launcher.specs
            port = int(told.address.rpartition(":")[2])

            async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                upstream = await asyncio.open_connection("127.0.0.1", port)
                await asyncio.gather(_relay(reader, upstream[1], seen), _relay(upstream[0], writer, seen))

            relay = await asyncio.start_server(pass_on, "127.0.0.1", 0)
            address = f"tcp://127.0.0.1:{relay.sockets[0].getsockname()[1]}"
            events = ConnectionEvents(
                lambda _, message: heard.append(message), heard.append, lambda *_: False
            )
            link = RunnerConnection(Endpoint(address, told.secret, told.identity), events)
            link.open()
            await until(lambda: bool(heard))
            one = msgspec.structs.replace(request(subject, 5), cache_salt="a-salt-in-plain-text")
            generation = Generation([one.request_id], lambda _: None)
            link.submit([one], generation)
            await until(lambda: not generation.live)
            assert (b"a-salt-in-plain-text" in seen) is not encrypted
            assert (b"outputs" in seen) is not encrypted
            assert len(seen) > 500
            link.close("", lost=False)
            relay.close()
            await relay.wait_closed()

    run(test())


def test_a_launcher_without_tls_may_not_use_a_network() -> None:
    """Neither does this side connect, nor does the runner listen; it is not tried again."""

    async def test() -> None:
        launcher = TcpLauncher(host="0.0.0.0")
        async with pool(launcher=launcher, wait=False) as (subject, _):
            await until(lambda: subject.runners[0].phase is Phase.GIVEN_UP)
            assert (
                "would be plain text on a network: only a launcher with `encrypted`"
                in subject.status().reason
            )
            assert subject.runners[0].launches == 1
            assert launcher.handles[0].pid is None
        alone = await spawn(launcher.specs[0])
        assert await alone.wait() == CANNOT_START

    run(test())


def test_one_that_knows_the_secret_alone_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    async def test() -> None:
        launcher = TcpLauncher(encrypted=True)
        async with pool(launcher=launcher) as (subject, _):
            (told,) = launcher.specs
            heard: list[object] = []
            events = ConnectionEvents(
                lambda _, message: heard.append(message), heard.append, lambda *_: False
            )
            intruder = RunnerConnection(Endpoint(told.address, told.secret, new_identity()), events)
            intruder.open()
            await until(lambda: "was not authenticated" in caplog.text)
            assert heard == []
            intruder.close("", lost=False)
            assert await drain(subject.submit([request(subject, 3)]))

    run(test())


def test_the_specification_reaches_ranks_in_the_environment_and_goes_no_further() -> None:
    """`command` stands for mpirun: it gives its ranks the environment, and standard input to one of them."""

    async def test() -> None:
        launch = msgspec.structs.replace(spec(), command=("/usr/bin/env",))
        async with pool(launch=launch) as (subject, _):
            assert await drain(subject.submit([request(subject, 3)]))

    run(test())
    assert SPEC_VARIABLE not in os.environ


def test_a_rank_that_cannot_start_says_so(tmp_path: Path) -> None:
    """It may be on another machine than the leader, which waits for it; mpirun ends when it does."""
    files = ModelFiles(str(tmp_path), "", 100, (2,))
    launch = msgspec.structs.replace(spec("tensorrt_llm"), command=("mpirun",), files=files)
    told = {SPEC_VARIABLE: msgspec.json.encode(launch).decode(), "OMPI_COMM_WORLD_RANK": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "trtllm_openai.engine_host"],
        env=child_environment(**told),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == CANNOT_START
    assert "rank 1 cannot start: " in done.stderr, done.stderr
    assert str(tmp_path) in done.stderr
    assert "Traceback" not in done.stderr


HANGS_AT_EXIT = """
import os, signal, socket, sys, time, msgspec
signal.signal(signal.SIGTERM, signal.SIG_IGN)
from trtllm_openai.engine_host.messages import Failed, Ready, encode
from trtllm_openai.generation import Capabilities, EngineInfo
from trtllm_openai.processes.framing import framed
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
end, _ = listener.accept()
info = EngineInfo("synthetic", "", "", "cpu", 100, (2,), 64, 4, Capabilities())
end.sendall(framed(encode(Ready(info))))
end.recv(1)  # a request
end.sendall(framed(encode(Failed("the engine broke", False))))
while True:
    time.sleep(60)
"""


def test_a_failed_runner_that_hangs_at_exit_leaves_service_and_is_killed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(process_module, "EXIT_TIMEOUT_S", 0.5)
    monkeypatch.setenv("PYTHONPATH", str(Path(process_module.__file__).parents[2]))

    async def test() -> None:
        launcher = ScriptLauncher(tmp_path, HANGS_AT_EXIT)
        async with pool(launcher=launcher) as (subject, history):
            launcher.script = None
            generations = [subject.submit([request(subject, 3)]) for _ in range(2)]
            await until(lambda: history[-1].ready == 0)
            (hanging,) = launcher.handles
            assert hanging.pid is not None  # it is alive, and does not count
            assert subject.runners[0].phase is Phase.FAILED
            assert history[-1].reason == "runner 0 failed and is started again: the engine broke"
            assert await asyncio.wait_for(hanging.wait(), 10) == -signal.SIGKILL
            # Nothing of them was sent: the sequences move to the runner that replaces this one.
            for generation in generations:
                assert sum(len(output.token_ids) for output in await drain(generation)) == 3
            assert subject.restarts == 1

    run(test())


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose path leaves room for a socket's, as pytest's may not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory)


@pytest.mark.parametrize("failing", ["mkdtemp", "listen"])
def test_sockets_go_elsewhere_when_the_disk_is_full(
    monkeypatch: pytest.MonkeyPatch, short_path: Path, failing: str
) -> None:
    full, other = short_path / "full", short_path / "other"
    full.mkdir()
    other.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(full))
    monkeypatch.setattr(launcher_module, "LONGEST_TEMPORARY", 1000)
    monkeypatch.setattr(launcher_module, "OTHER_TEMPORARIES", (str(other),))
    launcher = SubprocessLauncher()  # there was room when it was made
    (first,) = full.iterdir()
    where = tempfile if failing == "mkdtemp" else launcher_module
    real = getattr(where, failing)

    def fails_there(*given: object, **named: object) -> object:
        if str(full) in f"{given} {named}":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*given, **named)

    monkeypatch.setattr(where, failing, fails_there)
    if failing == "mkdtemp":
        first.rmdir()

    async def test() -> None:
        async with pool(launcher=launcher) as (subject, _):
            assert subject.runners[0].endpoint is not None
            assert str(other) in subject.runners[0].endpoint.address

    run(test())
    assert list(full.iterdir()) == list(other.iterdir()) == []
    monkeypatch.setattr(launcher_module, "OTHER_TEMPORARIES", ())
    with pytest.raises(OSError, match="No space left"):
        directory_for_sockets()


def test_a_runner_that_worked_is_not_given_up_for_what_the_machine_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keep_running.Backoff, "delay", lambda *_: 0.01)
    lacking = errno.ENFILE
    refused = 0

    def exhausted(*_: object) -> None:
        nonlocal refused
        refused += 1
        raise OSError(lacking, "Too many open files in system")

    async def test() -> None:
        async with pool() as (subject, _):
            with monkeypatch.context() as patch:
                patch.setattr(launcher_module, "listen", exhausted)
                pid = subject.runners[0].pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
                await until(lambda: refused > 2 * keep_running.MAX_FAILURES)
                assert "could not be started: " in subject.status().reason
            await until(lambda: subject.status().ready == 1)
            assert await drain(subject.submit([request(subject, 3)]))

    run(test())


def test_a_given_up_runner_can_be_started_again(tmp_path: Path) -> None:
    async def test() -> None:
        launcher = ScriptLauncher(tmp_path, "raise SystemExit(3)")
        async with pool(launcher=launcher, wait=False) as (subject, _):
            await until(lambda: subject.status().failed)
            assert subject.status().reason == "runner 0 was given up: it ended with status 3"
            launcher.script = None
            await subject.restart(0, 1.0)
            await until(lambda: subject.status().ready == 1)
            assert await drain(subject.submit([request(subject, 3)]))

    run(test())


async def loads_again(subject: RunnerPool, restarts: int) -> None:
    await until(lambda: subject.restarts == restarts and subject.runners[0].phase is Phase.LOADING)


def test_a_given_up_runner_can_be_started_again_after_it_had_bound_its_socket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the launcher of the server: the socket of the launch before still lies there."""
    monkeypatch.setattr(keep_running.Backoff, "delay", lambda *_: 0.01)

    async def test() -> None:
        async with pool(launch=spec(load_time=1.0), wait=False) as (subject, _):
            for failures in range(keep_running.MAX_FAILURES):
                await loads_again(subject, failures)
                pid = subject.runners[0].pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
            await until(lambda: subject.status().failed)
            await subject.restart(0, 1.0)
            await until(lambda: subject.status().ready == 1)
            assert await drain(subject.submit([request(subject, 3)]))

    run(test())


def environment(pid: int | None) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def test_gpus_are_made_visible_to_the_process() -> None:
    async def test() -> None:
        launch = msgspec.structs.replace(spec(), gpus="3,5")
        async with pool(launch=launch) as (subject, _):
            assert b"CUDA_VISIBLE_DEVICES=3,5" in environment(subject.runners[0].pid)

    run(test())
