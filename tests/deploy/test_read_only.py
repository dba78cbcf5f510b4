"""A read-only root file system with no more than the volumes of the manifest, as in the pod."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from tests.deploy.manifests import DEPLOY, documents, pods, server_of
from tests.e2e.conftest import ROOT

HOME = "/srv"
"""A folder that every machine has, for the home of the manifest."""
UNSHARE = ["unshare", "--user", "--map-root-user", "--mount", "--propagation", "private"]


def can_mount() -> bool:
    """Whether this user may mount in a namespace of its own."""
    if shutil.which("unshare") is None:
        return False
    tried = [*UNSHARE, "mount", "-t", "tmpfs", "tmpfs", "/tmp"]
    return subprocess.run(tried, capture_output=True).returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(path.startswith(("/tmp/", f"{HOME}/")) for path in (sys.executable, str(ROOT))),
        reason="this checkout, or its Python, is where the volumes of the manifest go",
    ),
    pytest.mark.skipif(not can_mount(), reason="file systems cannot be mounted here"),
]


def script() -> str:
    """Shell commands that make the pod's file system, and prove it, before they start the server."""
    (deployment,) = documents(DEPLOY / "base" / "deployment.yaml")
    container = server_of(pods(deployment)[0])
    assert container is not None
    written = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
    (own,) = [one["value"] for one in container["env"] if one["name"] == "HOME"]
    assert own in written
    paths = [HOME if path == own else path for path in written]
    shown = shlex.join(
        [sys.executable, "-m", "trtllm_openai", "serve", "--port", "0", "--torch.max-seq-len", "512"]
    )
    mounts = "\n".join(f"mount -t tmpfs tmpfs {path}" for path in paths)
    return f"""set -e
awk '{{print $5}}' /proc/self/mountinfo | sort -u | while read -r point; do
  case $point in /proc*|/sys*|/dev*) ;; *) mount -o remount,bind,ro "$point" || true;; esac
done
{mounts}
for path in / {ROOT}; do
  ! touch $path/written 2>/dev/null || {{ echo "$path can be written"; exit 9; }}
done
export HOME={HOME}
unset XDG_CACHE_HOME TMPDIR
cd /
exec {shown}
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    process = subprocess.Popen([*UNSHARE, "bash", "-c", script()], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = next((found for line in process.stdout if (found := re.search(r"is ready on (\S+)", line))), None)
    try:
        assert found is not None, f"it ended with status {process.wait()}"
        yield found[1]
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_the_demo_is_converted_and_answers(url: str) -> None:
    body = {"prompt": "Seoul is", "max_tokens": 4}
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=120).raise_for_status().json()
    assert answer["usage"]["completion_tokens"] == 4
