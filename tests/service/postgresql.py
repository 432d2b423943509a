"""A PostgreSQL server of the tests' own, from the system's package."""

import os
import shlex
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path
from urllib.parse import quote

import psycopg


def programs() -> Path | None:
    """Where PostgreSQL's programs are: Debian keeps them off the path."""
    if (found := shutil.which("initdb")) is not None:
        return Path(found).parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


class Server:
    """A server without a network: it is reached by a socket in its folder. It refuses to be run by root."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._user = "postgres" if os.getuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="danqing-postgresql-"))
        if self._user:
            shutil.chown(self.folder, self._user)
        self._call(
            *("initdb", "--no-sync", "--auth=trust", "--username=tests", "--encoding=UTF8", "--locale=C")
        )

    def _call(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), "-D", str(self.folder / "data"), *arguments]
        subprocess.run(command, user=self._user, cwd="/", check=True, stdout=subprocess.DEVNULL)

    def start(self) -> None:
        """Returns when it answers."""
        place = shlex.quote(str(self.folder))
        options = f"-k {place} -c listen_addresses= -c fsync=off -c shared_buffers=16MB"
        self._call(
            "pg_ctl", "--wait", "--silent", f"--log={self.folder}/log", f"--options={options}", "start"
        )

    def stop(self) -> None:
        """As a crash does it: connections break."""
        self._call("pg_ctl", "--wait", "--silent", "--mode=immediate", "stop")

    def remove(self) -> None:
        """Stop it and delete what it wrote."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def new_database(self) -> str:
        """The URL of a database of its own."""
        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f"create database {name}")
        return self._url(name)

    def empty_database(self) -> str:
        """The URL of the one that is emptied for each test, which takes less time than making another."""
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute("drop schema public cascade")
            connection.execute("create schema public")
        return self._url("postgres")

    def _url(self, name: str) -> str:
        return f"postgresql://tests@/{name}?host={quote(str(self.folder))}"
