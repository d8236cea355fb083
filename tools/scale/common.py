"""What all measurements share: room, mounts that end whatever happens, and how a figure is said."""

import json, os, shutil, signal, socket, statistics, subprocess, sys, time

GIB = 1 << 30
MIB = 1 << 20
# The VM of every measurement is one file.
VM = "scale.raw"


class Failed(Exception):
    """A measurement that can't go on, in a sentence."""


def sh(command, check=True):
    return subprocess.run(command, shell=True, check=check, capture_output=True, text=True).stdout


def need(path, room):
    stat = os.statvfs(path)
    free = stat.f_bavail * stat.f_frsize
    if free < room:
        raise Failed(f"{room / GIB:.1f} GiB of room are needed in {path}, {free / GIB:.1f} are free")


def drop_caches():
    sh("sync; echo 3 > /proc/sys/vm/drop_caches")


class Mount:
    """A mount of its own below `root`, ended and removed whatever happens."""

    def __init__(self, root, program, memory, name="scale", listens=False):
        self.root, self.program, self.memory, self.name = root, program, memory, name
        self.store, self.mount = f"{root}/{name}", f"{root}/{name}-mnt"
        self.listen = None
        if listens:
            # The same port after each mount: the peer has written it down.
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.listen = f"127.0.0.1:{probe.getsockname()[1]}"
        os.makedirs(self.mount, exist_ok=True)

    def start(self):
        """Seconds until the mount is usable."""
        command = [self.program, "mount", "--store", self.store, "--name", self.name, "--index-memory", self.memory,
                   "--log", f"{self.root}/{self.name}.log"]
        command += ["--listen", self.listen] if self.listen else []
        begun = time.monotonic()
        subprocess.run(command + [self.mount], check=True)
        return time.monotonic() - begun

    def stop(self):
        begun = time.monotonic()
        sh(f"umount {self.mount}", check=False)
        while self.pids() and time.monotonic() - begun < 120:
            time.sleep(0.05)
        if self.pids():
            self.kill()

    def kill(self):
        """As a machine that is lost: keeper and worker at once."""
        for pid in self.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        sh(f"umount -l {self.mount}", check=False)
        while self.pids():
            time.sleep(0.01)

    def restart(self):
        """Ended in order and started with nothing in memory; seconds that the mount took."""
        self.stop()
        drop_caches()
        return self.start()

    def pids(self):
        """Keeper and worker of this mount: by the store on their command lines."""
        out = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                line = open(f"/proc/{pid}/cmdline", "rb").read().split(b"\0")
            except OSError:
                continue
            if self.store.encode() in line and os.path.basename(line[0]) == os.path.basename(self.program).encode():
                out.append(int(pid))
        return out

    def rss(self):
        """Bytes of memory of the largest process, now and at most."""
        now = peak = 0
        for pid in self.pids():
            try:
                for line in open(f"/proc/{pid}/status"):
                    if line.startswith("VmRSS"):
                        now = max(now, int(line.split()[1]) << 10)
                    if line.startswith("VmHWM"):
                        peak = max(peak, int(line.split()[1]) << 10)
            except OSError:
                pass
        return now, peak

    def disk(self, name=VM):
        return f"{self.mount}/disks/{name}"

    def vm(self, file):
        return f"{self.mount}/vms/{VM}/{file}"

    def status(self):
        """The VM's status; empty where it isn't known yet."""
        try:
            return json.loads(open(self.vm("status.json")).read())
        except (OSError, ValueError):
            return {}

    def set_policy(self, text):
        with open(self.vm("policy"), "w") as file:
            file.write(text)

    def head_seq(self):
        return int(self.status()["head"].rsplit("-", 1)[1])


def tell(path, line, use=lambda: None):
    """A line to a control file: what its handle shows, and the seconds that it took: the write alone, the write and
    `use`, and reading the answer after that."""
    fd = os.open(path, os.O_RDWR)
    try:
        begun = time.monotonic()
        try:
            os.write(fd, line.encode() + b"\n")
        except OSError as error:
            shown = os.pread(fd, 1 << 16, 0).decode()
            raise Failed(f"`{line}` to {path}: {error.strerror}\n{shown}") from error
        written = time.monotonic() - begun
        use()
        used = time.monotonic() - begun
        shown = os.pread(fd, 1 << 16, 0).decode()
        answered = time.monotonic() - begun - used
    finally:
        os.close(fd)
    return dict(row.split(": ", 1) for row in shown.splitlines() if ": " in row), (written, used, answered)


def lapse(action):
    begun = time.monotonic()
    action()
    return time.monotonic() - begun


def timed(what, limit, action):
    took = lapse(action)
    within(what, took, limit)
    return took


MISSES = []


def say(what, figure, good=True, limit=None):
    bound = f"  (limit {limit})" if limit else ""
    if not good:
        MISSES.append(what)
    print(f"{'ok  ' if good else 'MISS'} {what}: {figure}{bound}", flush=True)


def within(what, took, limit, more=""):
    say(what, f"{took * 1000:.1f} ms{more}", took < limit, f"{limit * 1000:.0f} ms")


def wait(what, true, seconds=900):
    begun = time.monotonic()
    while not true():
        if time.monotonic() - begun > seconds:
            raise Failed(f"{what} doesn't come")
        time.sleep(0.05)
    return time.monotonic() - begun


def first_byte(path, offset=0):
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, 4096, offset)
    finally:
        os.close(fd)


def fio(**options):
    args = [f"--{k}={v}" if v != "" else f"--{k}" for k, v in options.items()]
    fixed = ["--name=scale", "--ioengine=libaio", "--direct=1", "--group_reporting", "--output-format=json"]
    done = subprocess.run(["fio", *fixed, *args], check=True, capture_output=True, text=True).stdout
    job = json.loads(done[done.index("{"):])["jobs"][0]
    part = job["write"] if "write" in options.get("rw", "write") else job["read"]
    return part["iops"], part["bw_bytes"]


def reads_beside(mount, live, past, size, seconds, rounds=1):
    """How fast a past moment is read beside the live disk, with nothing cached; the median of the rounds."""
    for what, more in [("4 KiB random, depth 32", {"rw": "randread", "bs": "4k", "iodepth": 32}),
                       ("128 KiB sequential", {"rw": "read", "bs": "128k", "iodepth": 4})]:
        speeds = {name: [] for name in ("live", *past)}
        for turn in range(rounds):
            order = [("live", live), *past.items()]
            for name, file in order if turn % 2 == 0 else reversed(order):
                drop_caches()
                speeds[name].append(fio(filename=file, size=size, runtime=seconds, time_based="", readonly="", **more)[1])
        speed = {name: statistics.median(all_of) for name, all_of in speeds.items()}
        for name in past:
            share = speed[name] / max(speed["live"], 1)
            say(f"{what}: {name} reads at", f"{share:.2f} of live ({speed[name] / MIB:.0f} of "
                f"{speed['live'] / MIB:.0f} MiB/s)", share >= 0.5, "0.50")
    now, peak = mount.rss()
    say("memory of the worker after reading", f"{now / MIB:.0f} MiB, at most {peak / MIB:.0f} MiB")


def measured(root, mounts, action, keep=lambda: False):
    """Runs it in a directory of its own, and takes everything away again, also after Ctrl-C and SIGTERM, but for what
    `keep` says."""
    def stop(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, stop)
    code = 0
    try:
        action()
    except Failed as failed:
        print(f"scale: {failed}", file=sys.stderr)
        code = 1
    except subprocess.CalledProcessError as error:
        print(f"scale: {error}\n{error.stderr or ''}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("scale: stopped", file=sys.stderr)
        code = 130
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for mount in mounts:
            mount.stop()
        if any(mount.pids() for mount in mounts):
            print(f"scale: processes are left; {root} stays", file=sys.stderr)
        elif not keep():
            shutil.rmtree(root, ignore_errors=True)
    if MISSES:
        print(f"MISS {len(MISSES)} of the figures: {'; '.join(MISSES)}")
    sys.exit(code or (2 if MISSES else 0))
