"""A replctl group for a long test: in a state directory of its own, on ports known beforehand, ended whatever happens."""
import contextlib, json, os, shutil, signal, subprocess, sys, tempfile, threading, time

from resp import Connection, Refused, ask, free_port, request, wait_until

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ENGINES = ["repld", "redis-server", "valkey-server"]


class Group:
    """`engines` says which program serves n1, n2, …; n1 is the master and the others follow it. All have the directives of
    `config`."""

    def __init__(self, replctl, directory, engines, config=None):
        self.replctl, self.directory = replctl, directory
        self.engines = {f"n{number}": engine for number, engine in enumerate(engines, 1)}
        self.ports = {name: free_port() for name in self.engines}
        self.file = os.path.join(directory, "long.toml")
        with open(self.file, "w") as file:
            file.write("[defaults.config]\n" + "".join(f'{key} = "{value}"\n' for key, value in (config or {}).items()))
            for name, engine in self.engines.items():
                file.write(f'[[node]]\nname = "{name}"\nport = {self.ports[name]}\nengine = "{engine}"\n')
                file.write('' if name == "n1" else 'replica-of = "n1"\n')

    def run(self, *arguments, code=0):
        """The object that replctl prints, which must end in `code`."""
        argv = [self.replctl, "--state-dir", os.path.join(self.directory, "state"), "--json", *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
        assert done.returncode == code, f"{arguments[0]} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else None

    def info(self, name, section):
        text = ask(self.ports[name], "INFO", section)
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    def pid(self, name):
        nodes = json.loads(self.output("status"))["nodes"]
        return next(node["process"]["pid"] for node in nodes if node["name"] == name)

    def output(self, *arguments):
        """What replctl prints as JSON, however it ends."""
        argv = [self.replctl, "--state-dir", os.path.join(self.directory, "state"), "--json", *arguments]
        return subprocess.run(argv, capture_output=True, text=True, timeout=120).stdout

    def node_dir(self, name):
        return os.path.join(self.directory, "state", "long", "nodes", name)

    def empty(self, name):
        """Takes away what a node has on disk, but for its configuration."""
        for entry in os.scandir(self.node_dir(name)):
            if entry.name != "node.conf":
                shutil.rmtree(entry.path) if entry.is_dir() else os.unlink(entry.path)

    def fill(self, name, keys):
        """Writes as many keys to a node, and waits until all nodes have them."""
        with Connection(self.ports[name], timeout_secs=60) as connection:
            connection.socket.sendall(b"".join(request("SET", f"key:{number}", "x" * 32) for number in range(keys)))
            for _ in range(keys):
                connection.reply()
        wait_until("every node has the keys", lambda: {ask(port, "DBSIZE") for port in self.ports.values()} == {keys})

    def down(self):
        """Ends the group; what the tool leaves is an error, and is ended by process id."""
        try:
            self.run("down", "--wipe")
        finally:
            left = list(processes_in(self.directory))
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        assert not left, f"down left processes behind: {left}"


@contextlib.contextmanager
def group(replctl, script, engines, config=None):
    """A group that is down when this ends. After an error its directory, with the logs, is kept and named."""
    directory = tempfile.mkdtemp(prefix=f"long-{script}-")
    made = Group(replctl, directory, engines, config)
    try:
        yield made
    except BaseException as error:
        if isinstance(error, Exception):  # not an interrupt; wiping takes the logs away, so they are kept
            shutil.copytree(directory, directory + "-failed", ignore=shutil.ignore_patterns("*.sock", "backlog.bin"))
            print(f"kept: {directory}-failed", file=sys.stderr)
        with contextlib.suppress(Exception):  # what went wrong first is what counts
            made.down()
        raise
    else:
        made.down()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def installed(wished):
    """Those of `wished` (all engines, if empty) that this machine has; the others are named."""
    for engine in wished or ENGINES:
        if engine == "repld" or shutil.which(engine):
            yield engine
        else:
            print(f"{engine} is not installed: skipped")


def load():
    return "load of the machine " + " ".join(f"{average:.1f}" for average in os.getloadavg())


def processes_in(directory):
    """The processes that work in our private directory or were started with a file of it."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline") as file:
                words = file.read()
            if directory in words or os.readlink(f"/proc/{pid}/cwd").startswith(directory):
                yield int(pid)
        except OSError:
            pass


class Follower(threading.Thread):
    """Writes keys of its own, one at a time, to whichever node takes writes; remembers which were acknowledged and the longest
    time between two of them."""

    def __init__(self, number, ports):
        super().__init__(daemon=True)
        self.number, self.ports, self.stopped = number, list(ports), threading.Event()
        self.acknowledged, self.last, self.gap = [], time.monotonic(), 0.0
        self.start()

    def run(self):
        attempt = 0
        while not self.stopped.is_set():
            try:
                self.write_to(self.ports[attempt % len(self.ports)])
            except (OSError, Refused):
                attempt += 1

    def write_to(self, port):
        with Connection(port) as connection:
            while not self.stopped.is_set():
                key = f"w{self.number}:{len(self.acknowledged)}"
                connection.ask("SET", key, "x")
                now = time.monotonic()
                self.acknowledged.append(key)
                self.gap, self.last = max(self.gap, now - self.last), now

    def take_gap(self):
        """The longest pause since the last call, in seconds."""
        gap, self.gap = self.gap, 0.0
        return gap

    def stop(self):
        self.stopped.set()
        self.join(10)
        assert not self.is_alive(), "a writer still waits"


def missing(port, keys):
    """How many of `keys` a node does not have."""
    count = 0
    with Connection(port, timeout_secs=60) as connection:
        for start in range(0, len(keys), 1000):
            batch = keys[start:start + 1000]
            count += len(batch) - connection.ask("EXISTS", *batch)
    return count
