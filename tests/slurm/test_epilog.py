"""The Epilog drop-in leaves a notice of every job, and no node comes to harm whatever it meets."""

import os
import pwd
import shutil
import signal
import stat
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from files import filled

from tracksync.spool import pending
from waiting import until

pytestmark = pytest.mark.slow

NAME = "epilog.d/50-tracksync"
EMPTY = "#!/bin/sh\nexit 3\n"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a cluster of root's and jobs of others")


@contextmanager
def epilog(slurm, spool, **values):
    # this machine may be busy, and most tests are not about that
    with slurm.hook("Epilog", filled(NAME, SPOOL=spool, **({"MOST": 30} | values))) as path:
        yield path


def dropped(spool, job):
    """The files that are there for a job, once there is one."""
    return until(lambda: sorted(spool.rglob(f"{job}.*")), what=f"no notice of job {job}")


def untouched(slurm):
    """No node has drained."""
    assert {state for state, _ in slurm.node_states().values()} <= {"idle", "allocated", "mixed", "completing"}


@pytest.fixture
def spool(tmp_path_factory, request):
    """A directory that everybody can pass through to."""
    base = Path("/tmp") / f"tracksync-spool-{os.getpid()}-{time.monotonic_ns()}"
    base.mkdir(mode=0o755)
    base.chmod(0o755)
    yield base
    shutil.rmtree(base)


@as_root
def test_with_the_rights_of_the_job_s_user(slurm, spool):
    with epilog(slurm, spool):
        jobs = {user: slurm.sbatch(EMPTY, "--output=/dev/null", user=user, cwd="/tmp") for user in ("nobody", "root")}
        for user, job in jobs.items():
            slurm.ended(job)
            (path,) = dropped(spool, job)
            uid = pwd.getpwnam(user).pw_uid
            node = slurm.show(job)["NodeList"]
            assert path == spool / str(uid) / f"{job}.0.{node}"
            assert path.stat().st_uid == path.parent.stat().st_uid == uid
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    (notice,) = pending(spool / "0")
    assert (notice.job, notice.restart, notice.work_dir) == (jobs["root"], 0, Path("/tmp"))
    assert notice.exit_code == "3:0"
    assert abs(notice.ended_ms / 1000 - time.time()) < 60


@as_root
def test_as_root_into_a_spool_of_root_s(slurm, spool):
    with epilog(slurm, spool, DROP_AS="root"):
        job = slurm.sbatch(EMPTY, "--output=/dev/null", user="nobody", cwd="/tmp")
        slurm.ended(job)
        (path,) = dropped(spool, job)
    assert path.parent == spool
    assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (0, 0o644)
    assert pending(spool) == []  # it is not about a job of ours
    os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        assert [notice.job for notice in pending(spool)] == [job]
    finally:
        os.seteuid(0)


def test_without_any_right_of_root(user_slurm):
    spool = user_slurm.home / "spool"
    spool.mkdir()
    shutil.chown(spool, user_slurm.user.pw_uid)
    with epilog(user_slurm, spool):
        job = user_slurm.sbatch(EMPTY)
        user_slurm.ended(job)
        (path,) = dropped(spool, job)
    assert path.parent == spool
    untouched(user_slurm)


def test_a_requeued_job_ends_more_than_once(slurm, spool):
    script = '#!/bin/sh\n[ "${SLURM_RESTART_COUNT:-0}" = 0 ] || exit 0\necho begun\nsleep 600 & wait\n'
    with epilog(slurm, spool):
        job = slurm.sbatch(script, "--output=%j.out")
        until(lambda: "begun" in slurm.output(job))
        slurm.restart(job)
        first = dropped(spool, job)
        slurm.ended(job)
        both = until(lambda: sorted(spool.rglob(f"{job}.*"))[1:] and sorted(spool.rglob(f"{job}.*")))
    assert len(first) == 1
    assert len(both) == 2
    assert {notice.job for notice in pending(both[0].parent)} == {job}


NAMES = [
    "line\nfeed",
    "quote's\"",
    "$(touch pwned)`touch pwned`",
    "a ; touch pwned #",
    "-n %s\\",
    "é\x01",
    "\nend\nuid=0",
]


def test_names_that_somebody_has_chosen_well(slurm, spool, tmp_path):
    base = slurm.base / "home" / "hostile"
    base.mkdir()
    with epilog(slurm, spool):
        jobs = {}
        for name in NAMES:
            (base / name).mkdir()
            jobs[name] = slurm.sbatch(
                EMPTY, f"--comment={name}", f"--job-name={name}", "--output=/dev/null", cwd=base / name
            )
        for job in jobs.values():
            slurm.ended(job)
            dropped(spool, job)
    told = {notice.job: notice.work_dir for notice in pending(spool / "0" if os.geteuid() == 0 else spool)}
    assert told == {job: base / name for name, job in jobs.items()}
    assert not list(base.rglob("pwned"))
    untouched(slurm)


@contextmanager
def full(spool):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k,mode=755,nr_inodes=3", "none", spool], check=True)
    try:
        (spool / "filler").write_bytes(b"x" * 4096)
        yield
    finally:
        subprocess.run(["umount", spool], check=True)


@contextmanager
def hanging(spool):
    """On a file system that does not answer, as a network one whose server is away."""
    lower = spool.with_name(f"{spool.name}-lower")
    lower.mkdir()
    process = subprocess.Popen(["bindfs", "-f", lower, spool])
    try:
        until(lambda: os.path.ismount(spool))
        process.send_signal(signal.SIGSTOP)
        yield
    finally:
        process.send_signal(signal.SIGCONT)
        subprocess.run(["umount", "--lazy", spool], check=True)
        process.wait(30)
        shutil.rmtree(lower)  # what was asked of it meanwhile is done when it wakes up


@contextmanager
def missing(spool):
    spool.rename(spool.with_name(f"{spool.name}-away"))
    try:
        yield
    finally:
        spool.with_name(f"{spool.name}-away").rename(spool)


@contextmanager
def a_file(spool):
    spool.rmdir()
    spool.write_text("a file")
    try:
        yield
    finally:
        spool.unlink()
        spool.mkdir()


@contextmanager
def read_only(spool):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=755,ro", "none", spool], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", spool], check=True)


@contextmanager
def open_to_all(spool):
    spool.chmod(0o777)
    yield


FAULTS = {
    "missing": missing,
    "a file": a_file,
    "full": full,
    "read-only": read_only,
    "hanging": hanging,
    "open to all": open_to_all,
}


@as_root
@pytest.mark.parametrize("drop_as", ["user", "root"])
@pytest.mark.parametrize("fault", FAULTS)
def test_no_node_drains_whatever_happens_to_the_spool(slurm, spool, fault, drop_as):
    if fault == "hanging" and (shutil.which("bindfs") is None or not os.path.exists("/dev/fuse")):
        pytest.skip("needs bindfs and /dev/fuse")
    with epilog(slurm, spool, DROP_AS=drop_as, MOST=2), FAULTS[fault](spool):
        job = slurm.sbatch(EMPTY, "--output=/dev/null")
        assert slurm.ended(job, seconds=30)["JobState"] == "FAILED"  # with its own exit code, and within seconds
        assert slurm.show(job)["ExitCode"] == "3:0"
        untouched(slurm)
        until(lambda: not left_over(spool))  # bounded, also where the file system never answers
        if fault != "hanging":
            assert not list(spool.rglob(f"{job}.*"))


def left_over(spool):
    """Processes that still work for this spool."""
    shown = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in shown.splitlines() if str(spool) in line and "bindfs" not in line]


@as_root
def test_a_link_in_the_place_of_a_notice_leads_nowhere(slurm, spool):
    """As the user himself could put there: his own rights are all that he can use."""
    nobody = pwd.getpwnam("nobody")
    own = spool / str(nobody.pw_uid)
    own.mkdir()
    shutil.chown(own, nobody.pw_uid, nobody.pw_gid)
    secret = spool / "roots"
    secret.write_text("root's")
    with ExitStack() as stack:
        stack.enter_context(epilog(slurm, spool))
        held = slurm.sbatch(EMPTY, "--output=/dev/null", "--hold", user="nobody", cwd="/tmp")
        for node in slurm.nodes:
            (own / f"{held}.0.{node}").symlink_to(secret)
            for more in (2, 3, 4, 5):
                os.mkfifo(own / f"{held}.0.{node}.{more}")
        slurm.run("scontrol", "release", held)
        slurm.ended(held)
        until(lambda: not left_over(spool))
    assert secret.read_text() == "root's"
    assert all(path.is_symlink() or path.is_fifo() for path in own.iterdir())
    untouched(slurm)


@pytest.mark.parametrize(
    "name", ["SLURM_JOB_ID", "SLURM_JOB_UID", "SLURM_JOB_GID", "SLURMD_NODENAME", "SLURM_JOB_RESTART_COUNT"]
)
@pytest.mark.parametrize("value", ["", "../../x", "1\n2", "$(id)", "-1 ", "*"])
def test_what_cannot_be_is_no_reason_to_fail(spool, name, value):
    environment = surroundings() | {name: value}
    done = subprocess.run(
        ["/bin/sh", "-c", filled(NAME, SPOOL=spool)], env=environment, capture_output=True, timeout=30
    )
    assert done.returncode == 0
    assert done.stderr == b""
    until(lambda: not left_over(spool))
    if not (name == "SLURM_JOB_RESTART_COUNT" and value == ""):
        assert list(spool.rglob("*")) == []


def surroundings():
    """The variables of an Epilog's: no PATH, no HOME."""
    ids = {"SLURM_JOB_UID": str(os.geteuid()), "SLURM_JOB_GID": str(os.getegid())}
    return ids | {
        "SLURM_JOB_ID": "5",
        "SLURM_JOB_RESTART_COUNT": "0",
        "SLURMD_NODENAME": "n1",
        "SLURM_JOB_WORK_DIR": "/w",
    }


def test_it_takes_less_than_50_ms(spool, tmp_path):
    script = tmp_path / "epilog"
    script.write_text(filled(NAME, SPOOL=spool))
    script.chmod(0o755)
    taken = []
    for job in range(20):
        began = time.monotonic()
        subprocess.run([script], env=surroundings() | {"SLURM_JOB_ID": str(job)}, check=True)
        taken.append(time.monotonic() - began)
    until(lambda: len(list(spool.rglob("*.0.n1"))) == 20)
    assert min(taken) < 0.05, taken  # the others: what else this machine has to do
