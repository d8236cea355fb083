"""Measurements at a target: two daemons on this machine, paired, one protected to the other."""

import json, os, random, time

from common import *

# So many records are written before it is waited until the target has them: the source keeps what the target lacks.
RECORDS_A_TIME = 100_000
# What a retained record of 4 KiB takes in the target's journal, bytes; rather too much.
RECORD_BYTES = 4700
# What is written at offset 0 between two stretches of records, so that a moment can be told by its content.
MARK = 4096


class Sites:
    """A source that keeps nothing but what its target lacks, and a target that keeps every moment."""

    def __init__(self, root, options):
        program = os.path.abspath(options.program)
        self.root = root
        self.source = Mount(root, program, options.index_memory, "source")
        self.target = Mount(root, program, options.index_memory, "standby", listens=True)
        # Moments whose mark is known: (name, seq, mark).
        self.marks = []

    def mounts(self):
        return [self.source, self.target]

    def pair(self):
        self.target.start()
        self.source.start()
        token = tell(f"{self.target.mount}/site/control/pair", "create")[0]["outcome-says"]
        tell(f"{self.source.mount}/site/control/pair", f"accept {token}")
        self.linked()

    def linked(self):
        def link(mount, peer):
            try:
                return "\npeer-link: connected\n" in open(f"{mount.mount}/site/peers/{peer}/status").read()
            except OSError:
                return False
        wait("the connection", lambda: link(self.source, "standby") and link(self.target, "source"), 60)

    def protect(self, allowance):
        """From the line to a whole standby. The source's window is none from then on."""
        told, took = tell(self.source.vm("control/protect"), "to=standby")
        within("protect accepted", took[0], 1)
        self.source.set_policy("window: 0h\n")
        begun = time.monotonic()
        wait("the copy at the target", lambda: self.target.status(), 60)
        self.target.set_policy(f"allowance: {allowance // GIB}GiB\n")
        wait("the first copy", lambda: self.source.status().get("state") == "protected"
             and self.target.status().get("state") == "standby", 1800)
        say("first copy", f"{time.monotonic() - begun:.0f} s")

    def in_sync(self, seconds=900):
        """Everything that was written is durable at the target."""
        def same():
            here, there = self.source.status(), self.target.status()
            return here.get("state") == "protected" and there.get("state") == "standby" and there["head"] == here["head"]
        wait("the target's last record", same, seconds)

    def mark(self):
        """Writes the next mark and remembers its moment."""
        number = len(self.marks)
        fd = os.open(self.source.disk(), os.O_WRONLY)
        try:
            os.pwrite(fd, mark(number), 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        name = self.source.status()["head"]
        self.marks.append((name, int(name.rsplit("-", 1)[1]), number))

    def records(self, count, write):
        """`write(n)` writes n records, again and again, with a mark before each stretch and behind the last."""
        begun, first = time.monotonic(), self.source.head_seq()
        while count > 0:
            self.mark()
            write(min(count, RECORDS_A_TIME))
            count -= RECORDS_A_TIME
            self.in_sync()
        self.mark()
        self.in_sync()
        status = self.target.status()
        say("retained records at the target", f"{self.source.head_seq() - first} in {time.monotonic() - begun:.0f} s, "
            f"{status['used'] / GIB:.1f} GiB of journal, at the source {self.source.status()['used'] / GIB:.1f}")
        self.memory()

    def memory(self):
        for mount in self.mounts():
            now, peak = mount.rss()
            say(f"memory of the worker, {mount.name}", f"{now / MIB:.0f} MiB, at most {peak / MIB:.0f} MiB")

    def view(self, seq):
        return self.target.vm(f"recovery-points/@seq-{seq}/{VM}")

    def check(self, path, number, what):
        """A moment has the mark that was the newest."""
        if first_byte(path) != mark(number):
            raise Failed(f"{what} doesn't have the bytes of its moment")

    def newest_mark(self, seq):
        return max((m for m in self.marks if m[1] <= seq), key=lambda m: m[1])[2]

    def same(self, offsets):
        """Target and source show the same bytes there."""
        for offset in offsets:
            if first_byte(self.source.disk(), offset) != first_byte(self.target.disk(), offset):
                raise Failed(f"the target differs from the source at {offset}")

    def decided(self, what, verb, line, number, limit=1):
        """From the line until the target's disk has taken a write; then what it holds is compared."""
        disk = self.target.disk()
        opened = []

        def write():
            begun = time.monotonic()
            while not opened:
                try:
                    opened.append(os.open(disk, os.O_RDWR))
                except OSError as error:
                    if time.monotonic() - begun > 60:
                        raise Failed(f"after `{verb} {line}` the disk isn't writable: {error.strerror}") from error
                    time.sleep(0.001)
            os.pwrite(opened[0], os.urandom(4096), MARK)

        try:
            told, (line_took, whole, answer) = tell(self.target.vm(f"control/{verb}"), line, write)
            if os.pread(opened[0], 4096, 0) != mark(number):
                raise Failed(f"{what}: the disk doesn't have the bytes of the moment")
        finally:
            for fd in opened:
                os.close(fd)
        within(what, whole, limit, f", {line_took * 1000:.1f} of them for the line; then {answer * 1000:.1f} for its answer")
        self.settled(told)

    def settled(self, told):
        """Until the job has ended and nothing has the disk open: the next line is refused before."""
        job = told.get("job") or told.get("outcome-job")
        if job:
            def ended():
                text = open(f"{self.target.mount}/jobs/{job}/status").read()
                return "\nstate: succeeded" in text or "\nstate: failed" in text
            wait(f"the end of the job {job}", ended)
        time.sleep(0.3)

    def roll_back(self, what, number):
        read = lambda: self.check(self.target.disk(), number, what)
        told, (_, whole, _) = tell(self.target.vm("control/rollback"), f"confirm={VM}", read)
        within(what, whole, 1)
        self.settled(told)
        wait("a standby", lambda: self.target.status().get("state") == "standby")


def mark(number):
    return f"mark {number:08}\n".encode().ljust(MARK, b"m")


def restarted(mount, limit=1):
    took = mount.restart()
    within(f"mount, nothing cached, {mount.name}", took, limit)


def extents_of(options):
    """Where the extents lie: separate ones, over all of the disk."""
    draw, size = random.Random(7), options.size * GIB
    stride = size // options.extents // 4096
    for n in range(options.extents):
        length = draw.randrange(1, 17)
        yield (n * stride + draw.randrange(2, stride - length - 1)) * 4096, length * 4096


def overwrites(options, count, path, disk, draw):
    """An I/O log for fio: blocks of the extents, at random."""
    extents = list(extents_of(options))
    with open(path, "w") as file:
        file.write(f"fio version 2 iolog\n{disk} add\n{disk} open\n")
        for _ in range(count):
            offset, length = draw.choice(extents)
            file.write(f"{disk} write {offset + draw.randrange(length // 4096) * 4096} 4096\n")
        file.write(f"{disk} close\n")


def standby(sites, options):
    """Every effect at a target with a large sparse disk and many records."""
    contents = options.extents * 34 * 1024
    need(sites.root, 2 * contents + min(contents, 9 * GIB) + options.records * (RECORD_BYTES + 1024) + 4 * GIB)
    sites.pair()
    source, target, size = sites.source, sites.target, options.size * GIB
    with open(source.disk(), "wb") as file:
        file.truncate(size)
    begun, total, some = time.monotonic(), 0, []
    fd, block = os.open(source.disk(), os.O_WRONLY), os.urandom(64 << 10)
    for n, (offset, length) in enumerate(extents_of(options)):
        os.pwrite(fd, block[:length], offset)
        total += length
        if n % (options.extents // 100) == 0:
            some.append(offset)
    os.pwrite(fd, bytes(2 * MARK), 0)
    os.fsync(fd)
    os.close(fd)
    say("written", f"{options.extents} extents, {total / 1e9:.2f} GB in {time.monotonic() - begun:.0f} s")

    restarted(source)
    sites.linked()
    sites.protect(options.records * RECORD_BYTES * 2 + 8 * GIB)
    draw, log = random.Random(11), f"{sites.root}/iolog"

    def write(count):
        overwrites(options, count, log, source.disk(), draw)
        fio(read_iolog=log, iodepth=32, rw="randwrite")

    sites.records(options.records, write)
    sites.same(some)
    oldest, newest = sites.marks[0], sites.marks[-1]
    middle = sites.marks[len(sites.marks) // 2]

    # Views, just started.
    restarted(source)
    timed("stat, source", 1, lambda: os.stat(source.disk()))
    timed("first byte, source", 1, lambda: first_byte(source.disk(), some[3]))
    for name, moment in [("the newest", newest), ("the oldest", oldest), ("any", middle)]:
        restarted(target)
        timed(f"first byte of a view, {name} moment", 1, lambda: sites.check(sites.view(moment[1]), moment[2], "a view"))
    timed("ls -l of the target's disks", 1, lambda: sh(f"ls -l {target.mount}/disks"))
    worst = max(lapse(lambda o=o: first_byte(sites.view(middle[1]), o)) for o in some)
    within("worst first byte of 100 extents", worst, 1)

    # Both sites see each other: the source is stopped first.
    sites.linked()
    sites.in_sync()
    sites.decided("failover at the newest moment, the source linked", "failover", "latest start=no", newest[2])
    sites.roll_back("rollback, the source linked", newest[2])
    sites.in_sync()
    newest = (source.status()["head"], source.head_seq(), newest[2])

    # The source is lost.
    source.kill()
    restarted(target)
    sites.decided("failover at the newest moment, nothing cached", "failover", "latest start=no", newest[2])
    sites.decided("change to a moment in the middle", "change-recovery-point", middle[0], middle[2])
    sites.decided("change to the oldest moment", "change-recovery-point", oldest[0], oldest[2])
    sites.decided("change to the newest moment", "change-recovery-point", newest[0], newest[2])
    sites.roll_back("rollback", newest[2])
    restarted(target)
    sites.decided("failover at the oldest moment, nothing cached", "failover", f"{oldest[0]} start=no", oldest[2])
    sites.roll_back("rollback from the oldest moment", newest[2])
    sites.decided("failover at the newest moment", "failover", "latest start=no", newest[2])
    restarted(target)
    timed("first byte after a failover, nothing cached", 1, lambda: first_byte(target.disk(), some[5]))
    told, took = tell(target.vm("control/commit"), f"confirm={VM}")
    within("commit accepted", took[0], 1)
    begun = time.monotonic()
    sites.settled(told)
    say("the base has followed after the commit", f"{time.monotonic() - begun:.1f} s, "
        f"{target.status()['used'] / GIB:.1f} GiB of journal are left")
    for pid in target.pids():
        os.kill(pid, 9)
    target.stop()
    drop_caches()
    within("mount after a kill", target.start(), 1)
    timed("first byte after a kill", 1, lambda: first_byte(target.disk(), some[7]))
    sites.check(target.disk(), newest[2], "what was committed")
    sites.memory()


def filled(root):
    """Whether a run with `--keep` has filled these stores."""
    return os.path.exists(f"{root}/filled.json")


def fill(sites, options):
    """The records, with all that is needed to measure them in another run. The source is over then."""
    disk = options.disk * GIB
    need(sites.root, 2 * disk + options.records * RECORD_BYTES + RECORDS_A_TIME * RECORD_BYTES * 2 + 4 * GIB)
    sites.pair()
    source, target = sites.source, sites.target
    with open(source.disk(), "wb") as file:
        file.truncate(disk)
    fio(rw="write", bs="1M", iodepth=4, filename=source.disk(), size=disk)
    sites.protect(options.records * RECORD_BYTES * 2 + 8 * GIB)
    draw = random.Random(3)

    def write(count):
        # Behind the marks.
        fio(rw="randwrite", bs="4k", iodepth=32, filename=source.disk(), offset=1 << 20, size=disk - (1 << 20),
            number_ios=count, io_size=count * 4096, norandommap=1, randrepeat=0, randseed=draw.randrange(1 << 30))

    sites.records(options.records, write)
    blocks = [draw.randrange(256, disk // 4096) * 4096 for _ in range(200)]
    sites.same(blocks)
    # What the source does would be measured too.
    source.stop()
    with open(f"{sites.root}/filled.json", "w") as file:
        json.dump({"marks": sites.marks, "blocks": blocks, "disk": options.disk}, file)


def standby_moments(sites, options):
    """Any moment among many at a target that was just started, and how fast it is read."""
    if not filled(sites.root):
        fill(sites, options)
    known = json.load(open(f"{sites.root}/filled.json"))
    sites.marks, blocks, disk = known["marks"], known["blocks"], known["disk"] * GIB
    target, draw = sites.target, random.Random(options.draw)
    first, last = sites.marks[0][1], sites.marks[-1][1]

    def any_moment():
        seq = draw.randrange(first, last + 1)
        return lapse(lambda: sites.check(sites.view(seq), sites.newest_mark(seq), f"the moment {seq}"))

    fresh = []
    for _ in range(options.starts):
        restarted(target)
        fresh.append(any_moment())
    say("first byte of any moment, just started, each", ", ".join(f"{took * 1000:.1f} ms" for took in fresh))
    within(f"first byte of any moment, just started, worst of {options.starts}", max(fresh), 0.1)
    more = [lapse(lambda: first_byte(sites.view(draw.randrange(first, last + 1)), draw.choice(blocks)))
            for _ in range(40)]
    within("first byte of any moment after it, worst of 40", max(more), 0.1)
    restarted(target)
    past = {name: sites.view(seq) for name, seq in
            [("the oldest", first), ("the middle", (first + last) // 2)]}
    reads_beside(target, target.disk(), past, disk, options.seconds, options.rounds)
