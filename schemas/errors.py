"""Errors a user can act on. Each class has its own exit code; the message says what to do next."""

from __future__ import annotations


class WattierError(Exception):
    """Base of all errors that end a command with a message instead of a traceback."""

    exit_code = 1


class ConfigError(WattierError):
    """Configuration, mapping or policy refused: names the file, the path in it, the value and what is allowed."""

    exit_code = 2


class FileFault(WattierError):
    """A delivered file that cannot be read as its mapping says. Nothing of the run is published."""

    exit_code = 3

    def __init__(self, file: str, problem: str, hint: str = "") -> None:
        self.file, self.problem, self.hint = file, problem, hint
        super().__init__(f"{file}: {problem}" + (f" {hint}" if hint else ""))

    def __reduce__(self) -> tuple[type[FileFault], tuple[str, str, str]]:
        return FileFault, (self.file, self.problem, self.hint)


class AuditFailed(WattierError):
    """A blocking expectation did not hold. The last publication stands."""

    exit_code = 4


class Locked(WattierError):
    """Another run holds the warehouse."""

    exit_code = 5


class Mismatch(WattierError):
    """`wattier verify` found published rows that differ from the definitions."""

    exit_code = 6


class Unbalanced(WattierError):
    """Rows read are not accounted for. Nothing of the run is published."""

    exit_code = 7


class StateError(WattierError):
    """The warehouse's state is missing, damaged, or of another shape than the configuration says."""

    exit_code = 8
