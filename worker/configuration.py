"""Where settings come from: flags, then environment, then a TOML file, then the default."""

from __future__ import annotations

import argparse
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from pydantic import SecretStr, ValidationError

from worker.errors import SettingsRefused
from worker.settings import ENVIRONMENT_PREFIX, Setting, WorkerSettings, settings

CONFIG_VARIABLE = ENVIRONMENT_PREFIX + "CONFIG"

# Kubernetes gives every container variables for each Service: OFFBEAT_SERVICE_HOST, OFFBEAT_PORT=tcp://... where one is
# named offbeat. They are not ours.
_SERVICE_LINK = re.compile(
    r"OFFBEAT(_[A-Z0-9]+)*?_(SERVICE_(HOST|PORT)(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_[A-Z]+)?)"
)
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://.*")

Path_ = tuple[str, ...]


@dataclass(frozen=True)
class Configuration:
    """The settings of one process, and which source each came from.

    Attributes:
        settings: What the worker reads.
        origins: Source of each setting by its path, in words; settings that were not given are absent.
    """

    settings: WorkerSettings
    origins: dict[Path_, str]

    def to_toml(self) -> str:
        """The settings as a TOML file, secrets as ****, each with its source as a comment."""
        lines: list[str] = []
        table = ""
        for setting in sorted(settings(), key=lambda setting: len(setting.path) > 1):  # stable: tables last
            if (head := ".".join(setting.path[:-1])) != table:
                table = head
                lines += ["", f"[{head}]"]
            value = self._value(setting)
            origin = self.origins.get(setting.path, "default")
            text = f"{setting.path[-1]} = {_toml(value)}"
            lines.append(f"# {setting.path[-1]} is not set" if value is None else f"{text}  # {origin}")
        return "\n".join(lines) + "\n"

    def _value(self, setting: Setting) -> Any:
        value: Any = self.settings
        for part in setting.path:
            value = getattr(value, part)
        if len(setting.path) == 1 and value is None:
            derived = {"alert_topic": self.settings.alerts_to, "dead_letter_topic": self.settings.dead_letters_to}
            value = derived.get(setting.key)
        return value


def configure(arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> Configuration:
    """Read the settings of this process.

    A flag wins over a variable, a variable over the file, the file over the default. The file is the one of `--config`,
    else of the variable OFFBEAT_CONFIG; there is none by default.

    Args:
        arguments: Flags, without the program's name. `--help` prints all settings and exits.
        environment: Variables; of this process unless given. Those that do not begin with OFFBEAT_ are not looked at.

    Raises:
        SettingsRefused: A key is unknown, a value is wrong, or settings contradict each other. The message has a line
            for each, with source, key and remedy; no value of a secret is in it.
    """
    environment = os.environ if environment is None else environment
    flags = vars(flag_parser().parse_args(list(arguments)))
    config = flags.pop("config", None) or environment.get(CONFIG_VARIABLE)
    sources = [_from_flags(flags), _from_environment(environment), _from_file(Path(config)) if config else {}]
    values: dict[Path_, Any] = {}
    origins: dict[Path_, str] = {}
    for source in reversed(sources):
        for path, (value, origin) in source.items():
            values[path], origins[path] = value, origin
    try:
        return Configuration(WorkerSettings.model_validate(_nest(values)), origins)
    except ValidationError as error:
        raise SettingsRefused("\n".join(_explain(dict(item), origins) for item in error.errors())) from None


class _Parser(argparse.ArgumentParser):
    """A parser whose refusals travel like those of the other sources."""

    def error(self, message: str) -> NoReturn:
        if unknown := re.match(r"unrecognized arguments: (--[^\s=]+)", message):
            # Not what follows it: that may be the password that a misspelled flag was to set.
            hint = _near(unknown[1], [setting.flag for setting in settings()])
            message = f"{unknown[1]} is not a setting{hint}"
        elif message.startswith("unrecognized arguments:"):
            # Not what they are: the rest of a password with a space in it, maybe.
            message = "something stands there that is no flag and no flag's value: put values with spaces in quotes"
        raise SettingsRefused(f"flags: {message}; `--help` lists all settings")


def flag_parser(program: str = "offbeat work") -> argparse.ArgumentParser:
    """The command line of all settings, made from their model."""
    parser = _Parser(
        prog=program,
        usage="%(prog)s [--config FILE] [--SETTING VALUE ...]",
        description="Consume a Kafka topic, score its records in batches, publish an alert for every anomaly.",
        epilog=f"Every setting is also a variable ({ENVIRONMENT_PREFIX} and the name in capitals, a dot as two "
        "underscores: OFFBEAT_KAFKA__BOOTSTRAP_SERVERS) and a key of the TOML file. A flag wins over a variable, a "
        "variable over the file. Give secrets in files of their own (--kafka.sasl-password-file), as variables or in "
        "the TOML file: other users of the machine can see flags.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help=f"TOML file with settings; also {CONFIG_VARIABLE}. A misspelled key stops the start.",
    )
    groups: dict[str, Any] = {}
    for setting in settings():
        head = setting.path[0] if len(setting.path) > 1 else ""
        if head and head not in groups:
            groups[head] = parser.add_argument_group(head, WorkerSettings.model_fields[head].description)
        group = groups.get(head, parser)
        default = f" ({setting.default})" if setting.default else ""
        text = f"{setting.field.description or ''}{default}".replace("%", "%%")
        if setting.is_switch:
            group.add_argument(setting.flag, dest=setting.key, action=argparse.BooleanOptionalAction, help=text)
        else:
            group.add_argument(setting.flag, dest=setting.key, metavar=setting.metavar, help=text)
    return parser


Source = dict[Path_, tuple[Any, str]]


def _from_flags(flags: dict[str, Any]) -> Source:
    return {
        setting.path: (flags[setting.key], f"flag {setting.flag}") for setting in settings() if setting.key in flags
    }


def _from_environment(environment: Mapping[str, str]) -> Source:
    known = {setting.variable: setting for setting in settings()}
    found: Source = {}
    for variable, value in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable == CONFIG_VARIABLE:
            continue
        if variable in known:
            found[known[variable].path] = (value, f"environment {variable}")
        elif not _is_service_link(variable, value):
            raise SettingsRefused(
                f"environment {variable}: is not a setting{_near(variable, list(known))}: unset it or mend its "
                "spelling; a misspelled variable would leave its setting at the default unseen"
            )
    return found


def _is_service_link(variable: str, value: str) -> bool:
    is_address = variable.endswith("_PORT") and _SERVICE_ADDRESS.fullmatch(value) is not None
    return is_address or _SERVICE_LINK.fullmatch(variable) is not None


def _from_file(file: Path) -> Source:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsRefused(
            f"file {file}: cannot be read as TOML ({error}): mend it, or leave out --config and {CONFIG_VARIABLE}"
        ) from error
    known = {setting.path for setting in settings()}
    found: Source = {}
    for path, value in _flatten(content, known):
        if path not in known:
            key = ".".join(path)
            raise SettingsRefused(
                f"file {file}: {key}: is not a setting{_near(key, ['.'.join(k) for k in known])}: "
                "remove it or mend its spelling"
            )
        found[path] = (value, f"file {file}")
    return found


def _flatten(content: Mapping[str, Any], known: set[Path_], head: Path_ = ()) -> list[tuple[Path_, Any]]:
    leaves: list[tuple[Path_, Any]] = []
    for name, value in content.items():
        path = (*head, name)
        is_table = any(len(other) > len(path) and other[: len(path)] == path for other in known)
        if isinstance(value, dict) and path not in known and (value or is_table):
            leaves += _flatten(value, known, path)
        else:
            leaves.append((path, value))
    return leaves


def _nest(values: Mapping[Path_, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for path, value in values.items():
        table = nested
        for part in path[:-1]:
            table = table.setdefault(part, {})
        table[path[-1]] = value
    return nested


def _explain(item: dict[str, Any], origins: Mapping[Path_, str]) -> str:
    """One validation error as source, key, what is wrong and what to do."""
    path: Path_ = tuple(str(part) for part in item["loc"])
    setting = next((s for s in settings() if s.path == path[: len(s.path)]), None)
    message = item["msg"].removeprefix("Value error, ")
    if setting is None:  # a check across settings names them itself
        return f"settings: {f'{path[0]}: ' if path else ''}{message}"
    if item["type"] == "missing":
        return f"{setting.key}: is required: give {setting.flag}, {setting.variable}, or {setting.key} in the file"
    given = item.get("input")
    shown = "" if setting.is_secret or item["type"] == "value_error" else f" (it is {given!r})"
    origin = origins.get(setting.path, "default")
    return f"{origin}: {setting.key}: {message[:1].lower()}{message[1:]}{shown}"


def _near(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=1, cutoff=0.7)
    return f" (did you mean {close[0]}?)" if close else ""


def _toml(value: Any) -> str:
    if isinstance(value, SecretStr):
        return '"****"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, (int, float)):
        return repr(value)
    escaped = "".join(f"\\{c}" if c in '"\\' else c if c.isprintable() else f"\\U{ord(c):08x}" for c in str(value))
    return f'"{escaped}"'
