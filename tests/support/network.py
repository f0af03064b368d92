"""What processes open to the network."""

import socket

import psutil

HERE = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def heard(processes: list[psutil.Process]) -> set[str]:
    """Addresses other than this machine's own at which these processes take connections."""
    sockets = [one for process in processes for one in process.net_connections("inet")]
    return {
        one.laddr.ip
        for one in sockets
        if one.status == psutil.CONN_LISTEN or one.type == socket.SOCK_DGRAM
    } - HERE


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it started."""
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
