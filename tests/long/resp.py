"""What the long tests share: a RESP2 connection, free ports, waiting on conditions, and processes ended by their pid.

Python's standard library only, and only loopback.
"""
import atexit, os, signal, socket, subprocess, sys, time

HOST = "127.0.0.1"


class Refused(Exception):
    """An error reply."""


class Connection:
    def __init__(self, port, timeout_secs=5):
        self.socket = socket.create_connection((HOST, port), timeout=timeout_secs)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stream.close()
        self.socket.close()

    def ask(self, *arguments):
        self.socket.sendall(request(*arguments))
        return self.reply()

    def reply(self):
        line = self.stream.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the server closed the connection")
        kind, rest = line[:1], line[1:-2].decode()
        if kind == b"-":
            raise Refused(rest)
        if kind == b"$":
            return None if rest == "-1" else self.stream.read(int(rest) + 2)[:-2].decode()
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        return int(rest) if kind == b":" else rest


def request(*arguments):
    words = [str(argument).encode() for argument in arguments]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def ask(port, *arguments):
    with Connection(port) as connection:
        return connection.ask(*arguments)


def free_port():
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return listener.getsockname()[1]


def wait_until(what, condition, secs=30):
    """Asks every 5 ms; a server that is not there yet, or not yet willing, counts as no. Returns the seconds it took."""
    started = time.monotonic()
    while True:
        try:
            if condition():
                return time.monotonic() - started
        except (OSError, Refused):
            pass
        if time.monotonic() - started > secs:
            raise TimeoutError(f"waited {secs} s in vain: {what}")
        time.sleep(0.005)


_processes = []


def start(argv, log, cwd=None, env=None):
    """A process in its own session, which does not outlive this one."""
    with open(log, "ab") as output:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=cwd,
                                   env=env, start_new_session=True)
    _processes.append(process)
    return process


def kill(process):
    process.kill()
    process.wait()
    _processes.remove(process)


def kill_all():
    for process in list(_processes):
        kill(process)


def quantiles(values):
    ordered = sorted(values)
    pick = lambda share: ordered[min(len(ordered) - 1, int(len(ordered) * share))]
    return f"p50 {pick(.5):.1f}  p99 {pick(.99):.1f}  max {ordered[-1]:.1f}"


atexit.register(kill_all)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda *_: sys.exit(130))
