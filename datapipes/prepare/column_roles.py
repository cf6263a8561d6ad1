"""What the columns of a log mean: from the roles that the other modules read to a file's own names."""

from dataclasses import replace

import pyarrow as pa

from skipwise.common.console import note
from skipwise.common.errors import UserError
from skipwise.datapipes.prepare.config import FILE_ORDER, MOST_CONTEXT, REST, USER_OF_FILE, PrepareConfig
from skipwise.datapipes.prepare.json_rows import SAMPLE
from skipwise.datapipes.prepare.known_sources import known_by
from skipwise.datapipes.prepare.log_source import Source, brief_list
from skipwise.datapipes.prepare.row_condition import condition_of, wrong
from skipwise.datapipes.prepare.skip_options import SKIPS

USER = "--user"
"""The column of the listener whose log a file is."""
NO_SESSION = (
    f"where no column tells listeners apart --user NAME, or --user {USER_OF_FILE} where each file is a listener's"
)
NO_LATER = (
    f"; at most the first {SAMPLE:,} records are looked at: if only later ones have it, give an early one that field, "
    f"with null"
)
PREFIX = "hist_user_behavior_"
FLAGS = ("skip_1", "skip_2", "skip_3")
CONTEXT = {
    **{name: (name,) for name in ("context_type", "hour_of_day", "premium")},
    "shuffle": ("is_shuffle", "shuffle"),
    **{name: (name,) for name in ("reason_start", "reason_end")},
}
"""MSSD's context columns, each with its names without the prefix."""
NAMED = tuple(f"context_{number}" for number in range(1, MOST_CONTEXT + 1))
"""The roles of other columns that `--context` names: a log's own names could mean anything to SQL."""
WORDS = ("context_type", "reason_start", "reason_end", *NAMED)


def context_names(roles: dict[str, str]) -> dict[str, str]:
    """From the roles of context columns, in their order, to their names in a dataset."""
    return {
        role: role if role in CONTEXT else roles[role].removeprefix(PREFIX)
        for role in (*CONTEXT, *NAMED)
        if role in roles
    }


def with_roles(source: Source, config: PrepareConfig) -> Source:
    """Returns a source whose columns are known with their roles; its own columns go before those of its folders.

    Raises `UserError` for a column that is missing, is there twice or has no text.
    """
    if config.columns and source.leaves:
        raise UserError(
            f"{source.path} names its columns itself ({brief_list(source.names)}): leave --columns out, and name these "
            f"with --session (or {NO_SESSION}), --track and --order"
        )
    source = replace(source, fixed={name: of for name, of in source.fixed.items() if name not in source.names})
    columns = Columns(source)
    roles = roles_beside(columns, config) if source.path == config.tracks else roles_of(columns, config)
    for role, wanted in condition_of(config.where).columns.items() if config.where is not None else ():
        if wanted not in columns.names:
            later = NO_LATER if source.format == "json" else ""
            have = f"it has {brief_list(columns.names)}{later}"
            raise wrong(config.where or "", f"{source.path} has no column '{wanted}', {have}")
        roles[role] = wanted
    source = replace(source, roles=roles, joined=columns.joined, missed=frozenset(columns.missed))
    check_kinds(source)
    return source


class Columns:
    """Looks up columns of a file by the names that options give."""

    def __init__(self, source: Source) -> None:
        self.source, self.names = source, (*source.names, *source.fixed)
        self.joined: dict[str, tuple[str, ...]] = {}
        """Those made of several."""
        self.missed: set[str] = set()
        """Those that were looked for and are not there."""

    def find(self, wanted: str) -> str | None:
        """Returns a column's name in the file, None where it has none."""
        found = [name for name in self.names if name == wanted] or [n for n in self.names if n == PREFIX + wanted]
        if len(found) > 1:
            raise UserError(f"{self.source.path} has {len(found)} columns named '{wanted}': rename all but one")
        self.missed.update(() if found else (wanted,))
        return found[0] if found else None

    def need(self, wanted: str, flag: str) -> str:
        """Returns a column's name in the file; raises `UserError` where it has none, or two."""
        if (name := self.find(wanted)) is not None:
            return name
        path, known = self.source.path, known_by(self.names)
        other = NO_LATER if self.source.format == "json" else ""
        if self.source.format == "text":
            other = ", or the columns of a file without a header line with --columns"
            if self.source.layout.delimiter == " ":
                other += f" (--columns user track{REST} where a line holds a session and all its tracks)"
        told = f"--source {known.name} knows these columns" if known else f"--explain {path} proposes options"
        raise UserError(
            f"{path} has no column '{wanted}' (its columns are {brief_list(self.names)}): name the right one with "
            f"{flag}{other}; {told}"
        )

    def join(self, wanted: str | tuple[str, ...], flag: str) -> str:
        """Returns the name of a column that may be made of several."""
        parts = (wanted,) if isinstance(wanted, str) else wanted
        found = tuple(self.need(part, flag) for part in parts)
        if len(found) > 1:
            self.joined[" + ".join(found)] = found
        return " + ".join(found)


def roles_beside(columns: Columns, config: PrepareConfig) -> dict[str, str]:
    """Returns the roles of the columns of `config.tracks`."""
    own = (config.track,) if isinstance(config.track, str) else config.track
    if not (all(map(columns.find, own)) or columns.find("track_id")):
        raise UserError(
            f"{config.tracks} has no column '{' + '.join(own)}' (its columns are {brief_list(columns.names)}): give "
            f"its column of track ids that name, or track_id"
        )
    track = columns.join(own if all(map(columns.find, own)) else "track_id", "--track")
    return {"track": track, **{role: columns.need(*column) for role, column in config.names.items()}}


def roles_of(columns: Columns, config: PrepareConfig) -> dict[str, str]:
    """Returns the roles of the columns of a log."""
    find, need = columns.find, columns.need
    session = USER if config.user is not None else columns.join(config.session, f"--session (or {NO_SESSION})")
    roles = {"session": session, "track": columns.join(config.track, "--track")}
    if not config.tracks:
        roles |= {role: need(*column) for role, column in config.names.items()}
    if config.order != FILE_ORDER:
        roles["order"] = need(config.order, "--order (or say --order file if rows stand in play order)")
    chosen = {role: wanted for role in (*SKIPS, "duration") if (wanted := getattr(config, role))}
    roles |= {role: need(wanted, "--" + role.replace("_", "-")) for role, wanted in chosen.items()}
    if not chosen and any(map(find, FLAGS)):
        roles |= {flag: need(flag, "--skip or --skip-strength") for flag in FLAGS}
        roles |= {"not_skipped": kept} if (kept := find("not_skipped")) else {}
    if config.context is None:
        present = {role: next(filter(None, map(find, options)), None) for role, options in CONTEXT.items()}
        return roles | {role: name for role, name in present.items() if name and name not in roles.values()}
    known = {option: role for role, options in CONTEXT.items() for option in options}
    for wanted, role in zip(config.context, NAMED, strict=False):
        role = known.get(wanted.removeprefix(PREFIX), role)
        if role in roles:
            raise UserError(f"--context names '{wanted}', which is {roles[role]} again: name it once")
        roles[role] = need(wanted, "--context")
    return roles


def check_kinds(source: Source) -> None:
    """Raises `UserError` for a column of JSON or Parquet that has no text; warns of ids of several kinds."""
    roles = {name: role for role, name in source.roles.items()}
    track, found = source.roles["track"], source.leaves
    in_lists = any(found[name].lists for name in source.parts(track) if name in found)
    in_ids = (*source.parts(track), *source.parts(source.roles.get("session", "")))
    for name in source.read_names if found else ():
        kind, lists = found[name].kind, found[name].lists
        where = f"{source.path}, column '{name}' holds"
        if pa.types.is_nested(kind) or lists > 1:
            raise UserError(f"{where} lists of lists or maps: expected one value a row, or a list")
        if lists and not in_lists:
            raise UserError(
                f"{where} lists or structs, and '{track}' does not: expected one value a row, or a list of the tracks "
                f"beside it"
            )
        if roles.get(name) in NAMED and (pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
            raise UserError(
                f"{where} numbers with fractions ({kind}): expected words, whole numbers or flags; make them whole "
                f"numbers, or leave it out of --context"
            )
        if source.format == "json" and name in in_ids and kind == pa.json_():
            note(f'warning: {where} values of several kinds, which count as their text: 1 and "1" are one id')
