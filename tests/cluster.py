"""A real Slurm cluster on this host: munged, slurmctld and a slurmd for each of its nodes, on loopback.

with Cluster(nodes=2) as slurm:
    job = slurm.sbatch("#!/bin/sh\\nexit 3\\n")
    assert slurm.ended(job)["JobState"] == "FAILED"

The fixtures are in slurm/conftest.py. A cluster is shared between tests: a test that installs a hook takes it away
again (`with slurm.hook("TaskEpilog", text):`), and no test counts the jobs of others.
"""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lacking import lacking
from servers import WITH_US, free_port
from waiting import until

#: Seconds within which the daemons have to be up on a busy machine.
START = 60.0
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scancel", "scontrol", "squeue", "sinfo", "setpriv")
#: States in which a job's processes are over. (A requeued job is PENDING again.)
OVER = frozenset(
    {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "DEADLINE", "BOOT_FAIL"}
)
NOTHING = "#!/bin/sh\nexit 0\n"
#: The hooks of slurm.conf that a test can install. All jobs of the cluster meet them.
HOOKS = ("Prolog", "Epilog", "TaskProlog", "TaskEpilog", "EpilogSlurmctld")


def require_slurm():
    """Skip the test where Slurm is not installed; in CI that is a failure."""
    os.environ["PATH"] = os.pathsep.join(dict.fromkeys([*os.environ["PATH"].split(os.pathsep), "/usr/sbin", "/sbin"]))
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        reason = f"no {', '.join(missing)}: apt-get install slurm-wlm munge"
        lacking(reason)


class Cluster:
    """`nodes` nodes of `cpus` CPUs each, called n1, n2 and so on.

    Args:
        nodes: how many.
        cpus: of each; no more than one job runs on one of them.
        user: whose daemons these are (None: ours); needs root. Others than root can submit jobs only as themselves.
        options: further lines of slurm.conf, e.g. {"MinJobAge": "2"}; None takes a line away.

    `base` is the cluster's own directory, `home` one in which its user's jobs can write.
    """

    def __init__(self, *, nodes=2, cpus=8, user=None, options=None):
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self.cpus, self.options = cpus, options or {}
        self.user = pwd.getpwnam(user) if user else pwd.getpwuid(os.geteuid())
        self._stack = ExitStack()

    def __enter__(self):
        require_slurm()
        # munged wants every directory above its socket to be open to all
        self.base = Path(tempfile.mkdtemp(prefix="tracksync-slurm-", dir="/tmp"))
        self.base.chmod(0o755)
        self._stack.callback(shutil.rmtree, self.base, ignore_errors=True)
        for name in ("etc", "run", "state", "spool", "log", "munge", "hooks", "home"):
            (self.base / name).mkdir()
            self._own(self.base / name)
        self.home = self.base / "home"
        self.conf = self.base / "etc" / "slurm.conf"
        self.env = {"SLURM_CONF": str(self.conf), "PATH": os.environ["PATH"], "HOME": str(self.home), "LANG": "C"}
        for name in HOOKS:
            self._write_hook(name, NOTHING)
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_):
        subprocess.run(["scancel", "--me", "--signal=KILL"], env=self._env(), check=False, timeout=30)
        for user in {self.user.pw_name, "root", "nobody"} if self.user.pw_uid == 0 else ():
            subprocess.run(["scancel", f"--user={user}"], env=self._env(), check=False, timeout=30)
        try:
            until(lambda: not self.run("squeue", "-h").stdout.strip(), what="jobs that do not end", every=0.2)
        finally:
            self._stack.close()

    # what tests do

    def run(self, *command, user=None, cwd=None, check=True, env=None):
        """Run a command of Slurm's, by default as the cluster's user; returns the completed process."""
        who = pwd.getpwnam(user) if user else self.user
        return subprocess.run(
            [*_become(who), *map(str, command)],
            env=self._env(env),
            cwd=cwd or self.home,
            check=check,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def sbatch(self, script, *options, user=None, cwd=None, env=None):
        """Submit a script (its text, or a Path) and return the job's id. `env` is added to the job's environment."""
        if isinstance(script, Path):
            path = script
        else:
            fd, name = tempfile.mkstemp(dir=self.base, suffix=".sh")
            with os.fdopen(fd, "w") as file:
                file.write(script)
            path = Path(name)
            path.chmod(0o755)
        sent = self.run("sbatch", "--parsable", *options, path, user=user, cwd=cwd, env=env)
        return sent.stdout.strip().partition(";")[0]

    def show(self, job):
        """What `scontrol show job` says, by its names; none of what is no more known."""
        shown = self.run("scontrol", "--oneliner", "show", "job", job, check=False)
        words = (word.partition("=") for word in shown.stdout.split(" ") if "=" in word)
        return {name: value.strip() for name, _, value in words}

    def ended(self, job, *states, seconds=90.0):
        """Wait until a job and the Epilogs on its nodes are over, in one of `states`; what is known of it then.

        COMPLETING is not over: the node still runs its Epilog.
        """

        def over():
            fields = self.show(job)
            ready = fields.get("JobState") in (states or OVER)
            return fields if ready and not self._completing(job) else None

        def what():
            return f"job {job} is {self.show(job)}\n{self.logs()}"

        try:
            return until(over, seconds=seconds, every=0.1)
        except AssertionError:
            raise AssertionError(what()) from None

    def output(self, job):
        """What a job of `--output=%j.out` has printed until now."""
        path = self.home / f"{job}.out"
        return path.read_text() if path.exists() else ""

    def running(self, job, seconds=60.0):
        """Wait until a job runs."""
        return self.ended(job, "RUNNING", seconds=seconds)

    def restart(self, job):
        """Requeue a job whose script has begun, and do not wait the two minutes that Slurm would.

        (A script that gets its SIGTERM before it begins ends only with the SIGKILL after KillWait.)
        """
        self.run("scontrol", "requeue", job)
        until(lambda: self.show(job).get("JobState") == "PENDING" and not self._completing(job), seconds=60)
        # in the second in which it revoked the first credential, a node takes no other for the job
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now+2")

    def node_states(self):
        """node -> (state, reason), as sinfo shows them."""
        lines = self.run("sinfo", "-h", "-N", "-o", "%N|%T|%E").stdout.splitlines()
        return {name: (state, reason) for name, state, reason in (line.split("|", 2) for line in lines)}

    @contextmanager
    def hook(self, name, text):
        """Install a hook (its text) for the length of the block. See HOOKS."""
        assert name in HOOKS, name
        self._write_hook(name, text)
        try:
            yield self.base / "hooks" / name
        finally:
            self._write_hook(name, NOTHING)

    def logs(self):
        """The ends of the daemons' logs, for a message."""
        return "\n".join(f"{log}:\n{log.read_text()[-2000:]}" for log in sorted((self.base / "log").glob("*.log")))

    # how it is made

    def _completing(self, job):
        # squeue shows a job until the last Epilog has ended
        shown = self.run("squeue", "-h", "-j", job, "-t", "all", "-o", "%T", check=False).stdout.split()
        return "COMPLETING" in shown

    def _own(self, path):
        if os.geteuid() == 0:
            os.chown(path, self.user.pw_uid, self.user.pw_gid)

    def _env(self, more=None):
        return self.env | (more or {})

    def _write_hook(self, name, text):
        path = self.base / "hooks" / name
        new = path.with_suffix(".new")
        new.write_text(text)
        new.chmod(0o755)
        new.replace(path)  # a hook may be running at this moment

    def _start(self):
        for attempt in range(3):  # somebody else may take a port before a daemon does
            daemons = ExitStack()
            try:
                self._write_conf()
                self._launch(daemons)
            except AssertionError:
                daemons.close()
                if attempt == 2:
                    raise
            else:
                self._stack.push(daemons)
                return

    def _launch(self, daemons):
        munge = self.base / "munge"
        (munge / "key").write_bytes(os.urandom(1024))
        (munge / "key").chmod(0o400)
        self._own(munge / "key")
        files = {"key-file": "key", "socket": "s", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        named = [f"--{option}={munge / name}" for option, name in files.items()]
        self._daemon(daemons, "munged", "--foreground", *named)
        until((munge / "s").exists, seconds=START, what="munged does not start")
        self._daemon(daemons, "slurmctld", "-D", "-f", self.conf)
        for node in self.nodes:
            self._daemon(daemons, "slurmd", "-D", "-f", self.conf, "-N", node)
        try:
            until(self._idle, seconds=START)
        except AssertionError:
            raise AssertionError(f"the cluster does not start\n{self.logs()}") from None

    def _idle(self):
        shown = self.run("sinfo", "-h", "-N", "-t", "idle", "-o", "%N", check=False).stdout.split()
        return set(shown) == set(self.nodes)

    def _daemon(self, daemons, name, *options):
        command = [*_become(self.user), str(shutil.which(name)), *map(str, options)]
        with (self.base / "log" / f"{name}.out.log").open("ab") as log:
            process = subprocess.Popen(
                ["sh", "-c", WITH_US, "sh", *command],
                cwd=self.base,
                env=self._env(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        daemons.callback(_stop, process)

    def _write_conf(self):
        host = socket.gethostname().partition(".")[0]
        ports = [free_port() for _ in self.nodes]
        base, user = self.base, self.user.pw_name
        conf = {
            "ClusterName": "lab",
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmUser": user,
            "SlurmdUser": user,
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={base}/munge/s",
            "CredType": "cred/munge",
            "CommunicationParameters": "NoInAddrAny,NoCtldInAddrAny",
            "SlurmctldPort": free_port(),
            "StateSaveLocation": f"{base}/state",
            "SlurmdSpoolDir": f"{base}/spool/%n",
            "SlurmctldPidFile": f"{base}/run/slurmctld.pid",
            "SlurmdPidFile": f"{base}/run/slurmd-%n.pid",
            "SlurmctldLogFile": f"{base}/log/slurmctld.log",
            "SlurmdLogFile": f"{base}/log/slurmd-%n.log",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "JobAcctGatherType": "jobacct_gather/none",
            "AccountingStorageType": "accounting_storage/none",
            "JobCompType": "jobcomp/filetxt",
            "JobCompLoc": f"{base}/log/jobcomp.txt",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core",
            "SchedulerParameters": "sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0",
            "MpiDefault": "none",
            "ReturnToService": "2",
            "SlurmdParameters": "config_overrides",
            "PrologEpilogTimeout": "20",
            "KillWait": "20",
        }
        conf |= {name: f"{base}/hooks/{name}" for name in HOOKS} | self.options
        lines = [f"{name}={value}" for name, value in conf.items() if value is not None]
        lines += [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={self.cpus} RealMemory=1000"
            for node, port in zip(self.nodes, ports, strict=True)
        ]
        # the second one, on a node of its own, as sites have for transfers
        lines.append("PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP")
        lines.append(f"PartitionName=transfer Nodes={self.nodes[-1]} MaxTime=INFINITE State=UP")
        self.conf.write_text("\n".join(lines) + "\n")


def _become(user):
    """The words before a command that make it run as `user`."""
    if user.pw_uid == os.geteuid():
        return []
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--"]


def _stop(process):
    """End a daemon, and all that it started in its group: closing our end of the pipe does it, see WITH_US."""
    process.stdin.close()
    end = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    assert process.poll() is not None, f"{process.args} does not end"
