"""The lines of the operators' page, typed one after the other: into a root of their own, with systemd's own tools.

No systemd runs there: `systemctl --root` enables and disables as on a host, and what only a running one could do
(`daemon-reload`, to start and to stop) is told apart here.
"""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from lacking import lacking

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "deploy" / "README.md").read_text()
#: systemd's commands, for a host of which only the files are there; an editor saves what the page says.
SHELL = """
set -eu
systemctl() {
    case "$1" in
    edit) mkdir -p "$HOST/etc/systemd/system/$2.d"; cp "$HOST/drop-in" "$HOST/etc/systemd/system/$2.d/override.conf" ;;
    daemon-reload | stop) ;;
    *) local verb=$1; shift; [ "$1" != --now ] || shift; command systemctl --quiet --root="$HOST" "$verb" "$@" ;;
    esac
}
systemd-tmpfiles() { command systemd-tmpfiles --root="$HOST" "$@"; }
"""


def blocks(heading):
    """The blocks of code below a heading, each without its indentation."""
    (section,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    found = re.findall(r"(?:^ {4}.*\n)+", section, re.MULTILINE)
    return ["".join(line[4:] + "\n" for line in block.splitlines()) for block in found]


@pytest.fixture
def host(tmp_path):
    """`host(commands)` types them; the files of the host lie below `host.root`."""
    if shutil.which("systemd-tmpfiles") is None or shutil.which("systemctl") is None:
        lacking("no systemctl: apt-get install systemd")
    if os.geteuid():
        lacking("not root: only root may give a directory to root")
    root = tmp_path / "host"
    for name in ("etc/systemd/system", "etc/tmpfiles.d", "usr/lib/systemd/system", "var/lib", "etc/tracksync"):
        (root / name).mkdir(parents=True)
    (root / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (root / "etc" / "group").write_text("root:x:0:\n")

    def types(commands):
        here = re.sub(r"(?<![\w./])/(etc|opt|var)/", rf"{shlex.quote(str(root))}/\1/", commands)
        done = subprocess.run(
            ["bash", "-c", SHELL + here],
            cwd=ROOT,
            env=os.environ | {"HOST": str(root)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout}{done.stderr}"

    types.root = root
    return types


def shown(host, unit):
    """A unit with its drop-ins, as systemd on that host puts them together."""
    command = ["systemd-analyze", f"--root={host.root}", "cat-config", f"systemd/system/{unit}"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def state(host, unit):
    command = ["systemctl", f"--root={host.root}", "is-enabled", unit]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout.strip()


def test_a_service_per_user(host):
    commands, drop_in = blocks("A service per user")
    (host.root / "drop-in").write_text(drop_in)
    host(commands)
    assert state(host, "tracksync@alice.service") == "enabled"
    assert state(host, "tracksync@bob.service") != "enabled"
    text = shown(host, "tracksync@.service")
    assert drop_in.strip() in text
    assert text.index("ExecStart=") < text.index("Environment=TRACKSYNC_DIRS=/scratch/%i")


def test_hundreds_of_users_and_the_way_back(host):
    (commands,) = blocks("Hundreds of users")
    host(commands)
    assert state(host, "tracksync-launcher.timer") == "enabled"
    assert "--once" in shown(host, "tracksync@.service")  # the one pass of the launcher
    assert (host.root / "opt/tracksync/libexec/tracksync_launcher.py").is_file()
    spool, metrics = (host.root / "var" / name for name in ("spool/tracksync", "lib/tracksync-metrics"))
    assert [oct(place.stat().st_mode & 0o7777) for place in (spool, metrics)] == ["0o1777", "0o1777"]
    (host.root / "var/lib/tracksync").mkdir()  # systemd makes it when a service starts
    host("systemctl enable --now tracksync@alice")
    (back,) = blocks("Uninstalling")
    host(back)
    left = [str(path.relative_to(host.root)) for path in host.root.rglob("*") if "tracksync" in path.name]
    assert left == []
