"""A replctl group for a long test: in a state directory of its own, on ports known beforehand, ended whatever happens."""
import json, os, signal, subprocess, threading, time

from resp import Connection, Refused, ask, free_port


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

    def down(self):
        """Ends the group; what the tool leaves is an error, and is ended by process id."""
        try:
            self.run("down", "--wipe")
        finally:
            left = list(processes_in(self.directory))
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        assert not left, f"down left processes behind: {left}"


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
