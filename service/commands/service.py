"""`ccproxy service`: runs what `ccproxy up` runs as a service of this machine, with the settings of a folder.

Nothing of it is a second way to run: the service is `up` in the folder that has `.env`, with data in CCPROXY_HOME. Not
here: the files (`service_files`), and systemd and launchd (`service_control`).
"""

import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
from msgspec.structs import asdict

from service.commands import config_option, json_option
from service.commands.service_control import ServiceControl, ServiceState, Words, carry_out, control_of_this_machine
from service.commands.service_files import ServicePlan
from service.embedded import folder as folders
from service.embedded.program import answers_livez, own_command
from service.embedded.run_file import running
from service.embedded.screen import proxy_url
from service.errors import SettingsError
from service.private_files import make_closed_folder, make_folder
from service.settings import VARIABLES, Settings, load, read_dotenv
from service.settings.unused import OUTSIDE_ONLY
from service.telemetry.options import NumberOption
from service.telemetry.terminal import echo, echo_json
from service.version import DISTRIBUTION

COMMANDS = ("ccproxy", DISTRIBUTION)
KEPT = ("CCPROXY_HOME", "CCPROXY_CONFIG", "XDG_STATE_HOME")
"""Variables of the shell that say where files are."""
CACHES = (".cache", "Caches")
START_S = 60.0
POLL_S = 0.2
dry_option = click.option("--dry-run", is_flag=True, help="Only print what would be done.")


@click.group()
def service() -> None:
    """Run what `ccproxy up` runs as a service of this machine: systemd or launchd."""


@service.command()
@dry_option
@click.option("--no-start", is_flag=True, help="Only write the file; start nothing.")
@config_option
@json_option
def install(config: Path | None, *, dry_run: bool, no_start: bool, as_json: bool) -> None:
    """Install and start the service, or update it; it reads .env in the current folder, if there is one.

    Without .env here it runs in CCPROXY_HOME, and reads the one there. A user gets a service of their own, root one of
    the machine. Keys and other variables of this shell are not copied. Exits with 1 if it does not serve within a
    minute.
    """
    control = control_of_this_machine()
    plan, settings = plan_here(config)
    commands = () if no_start else control.start()
    if dry_run:
        show_dry_run(control, plan, commands, as_json=as_json)
        return
    if not no_start:
        refuse_obstacles(control, settings)
    write(control, plan)
    carry_out(commands)
    serves = not no_start and await_serving(control, settings)
    if as_json:
        echo_json(outcome(control, plan, settings))
    else:
        show_installed(control, plan, settings, serves=serves, started=not no_start)
    sys.exit(not serves and not no_start)


@service.command()
@json_option
def status(*, as_json: bool) -> None:
    """Show how the service stands, and whether the proxy answers. Exits with 1 if it does not."""
    control = control_of_this_machine()
    plan = installed_plan(control)
    settings = settings_of(plan)
    found = outcome(control, plan, settings)
    if as_json:
        echo_json(found)
    else:
        show_status(control, plan, settings, control.look())
    sys.exit(not found["serves"])


@service.command()
@click.option("-f", "--follow", is_flag=True, help="Keep printing new lines.")
@click.option(
    "-n", "--lines", default=50, show_default=True, type=NumberOption(0, 100_000), help="Number of past lines."
)
def logs(*, follow: bool, lines: int) -> None:
    """Show the log of the service: of `up` and the proxy. `ccproxy logs` has those of the servers and the worker."""
    control = control_of_this_machine()
    plan = installed_plan(control)
    command = control.log_command(lines, follow=follow)
    try:
        os.execvpe(command[0], command, {**os.environ, "CCPROXY_HOME": str(plan.home)})  # noqa: S606 - no shell is needed
    except OSError as error:
        raise click.ClickException(f"{command[0]}: {error.strerror}") from None


@service.command()
@dry_option
def uninstall(*, dry_run: bool) -> None:
    """Stop the service and remove its file; settings, data and logs stay."""
    control = control_of_this_machine()
    plan = installed_plan(control)
    if dry_run:
        for command in (*control.stop(), ("rm", str(control.file)), *control.forget()):
            echo(shlex.join(command))
        return
    if obstacle := control.obstacle():
        raise click.ClickException(obstacle)
    carry_out(control.stop())
    control.file.unlink()
    carry_out(control.forget())
    echo(f"The service is stopped, and {control.file} is removed. Data and logs stay in {plan.home}.")


def plan_here(config: Path | None) -> tuple[ServicePlan, Settings]:
    """Return what a service installed here runs, and the settings that it will have; both are checked."""
    try:
        folder = Path.cwd()
    except FileNotFoundError:
        raise click.ClickException("the current folder has been removed; change to another one") from None
    variables = passed_on(os.environ)
    if config:
        variables["CCPROXY_CONFIG"] = str(config.absolute())
    settings = settings_in(folder, variables)
    if not (folder / ".env").exists():
        folder = settings.home
        settings = settings_in(folder, variables)
    given = {name: value for name, value in variables.items() if name != "XDG_STATE_HOME"}
    plan = ServicePlan(
        own_program(),
        folder,
        settings.home,
        given | {"CCPROXY_HOME": str(settings.home)},
        tuple(sorted({Path(route.credentials_path).parent for route in settings.routes if route.credentials_path})),
    )
    if unfit := plan.unfit():
        raise click.ClickException(
            f"no service file can hold {unfit!r}: it has a control character, or bytes that are no UTF-8"
        )
    return plan, settings


def passed_on(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a service is given: places of files, and how the network is reached, without passwords.

    Root's service has no HOME of its own.
    """
    found = {name: str(Path(environ[name]).absolute()) for name in KEPT if environ.get(name)}
    found |= {name: value for name, value in environ.items() if name.upper() in OUTSIDE_ONLY and "@" not in value}
    return found | ({"HOME": str(Path.home())} if os.geteuid() == 0 else {})


def settings_in(folder: Path, variables: Mapping[str, str]) -> Settings:
    """Return the settings of a service that runs in a folder. A mistake in them ends the command with its message."""
    try:
        return load(environ={**read_dotenv(folder / ".env"), **variables})
    except SettingsError as error:
        raise click.ClickException(error.message) from None


def own_program() -> tuple[str, ...]:
    """Return the command `ccproxy up` by the path that stays the same when it is upgraded.

    A link in ~/.local/bin stays, wherever uv or pipx keep what it leads to. Raises click.ClickException for a program
    in a cache, as of uvx, that may be gone tomorrow.
    """
    if any(parent.name in CACHES or (parent / "CACHEDIR.TAG").exists() for parent in Path(sys.prefix).parents):
        raise click.ClickException(
            f"{sys.prefix} is in a cache, which may be emptied; install it first: `uv tool install {DISTRIBUTION}`"
        )
    called = Path(sys.argv[0]).absolute()
    if called.name in COMMANDS and os.access(called, os.X_OK):
        return (str(called), "up")
    return tuple(own_command("up"))


def refuse_obstacles(control: ServiceControl, settings: Settings) -> None:
    """Refuse to install where no service can run, or where `up` already runs. Raises click.ClickException."""
    if obstacle := control.obstacle():
        raise click.ClickException(obstacle)
    if control.look().active:
        return
    pid = folders.read(settings.home / "lock")
    if pid and settings.home.exists() and is_locked(settings.home):
        raise click.ClickException(
            f"`ccproxy up` already runs on {settings.home} (process {pid}); stop it with Ctrl-C, and install again"
        )


def is_locked(home: Path) -> bool:
    """True while an `up` runs on this folder."""
    try:
        with folders.Locked(home / "lock", timeout_s=0):
            return False
    except folders.FolderBusy:
        return True


def write(control: ServiceControl, plan: ServicePlan) -> None:
    """Write the file, and make the folders that it names."""
    make_folder(plan.home, 0o711 if os.geteuid() == 0 else 0o700)
    make_closed_folder(plan.home / "logs")
    make_folder(control.file.parent, 0o755)
    folders.write_private(control.file, control.text(plan))
    control.file.chmod(0o644)


def await_serving(control: ServiceControl, settings: Settings) -> bool:
    """Wait until everything is started and the proxy answers, at most for a minute."""
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s:
        if is_serving(control.look(), settings) and "proxy_url" in running(settings.home):
            return True
        time.sleep(POLL_S)
    return False


def is_serving(state: ServiceState, settings: Settings) -> bool:
    """True if the service runs and its proxy answers."""
    return state.active and answers_livez(settings.host, settings.port)


def installed_plan(control: ServiceControl) -> ServicePlan:
    """Return what the installed service runs. Raises click.ClickException if there is none."""
    try:
        return control.plan_in(control.file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise click.ClickException(f"there is no {control.file}; `ccproxy service install` makes the service") from None
    except (KeyError, ValueError):
        raise click.ClickException(
            f"{control.file} was changed by hand; `ccproxy service install` writes it anew"
        ) from None


def settings_of(plan: ServicePlan) -> Settings:
    """Return the settings of an installed service."""
    return settings_in(plan.folder, plan.variables)


def outcome(control: ServiceControl, plan: ServicePlan, settings: Settings) -> dict[str, object]:
    """Return for scripts how the service stands."""
    state = control.look()
    return {
        "kind": control.kind,
        "file": str(control.file),
        "command": list(plan.command),
        "command_exists": os.access(plan.command[0], os.X_OK),
        "folder": str(plan.folder),
        "home": str(plan.home),
        **asdict(state),
        "url": proxy_url(settings),
        "serves": is_serving(state, settings),
    }


def show_dry_run(control: ServiceControl, plan: ServicePlan, commands: Sequence[Words], *, as_json: bool) -> None:
    """Print the file and the commands, and what would be in the way."""
    if as_json:
        echo_json(
            {
                "kind": control.kind,
                "file": str(control.file),
                "text": control.text(plan),
                "commands": list(commands),
                "obstacle": control.obstacle(),
            }
        )
        return
    echo(f"Dry run: nothing is changed. {control.file} would be:")
    echo()
    for line in control.text(plan).splitlines():
        echo(line)
    echo()
    echo("Then:")
    for command in commands:
        echo(f"  {shlex.join(command)}")
    if obstacle := control.obstacle():
        echo(f"It could not be started: {obstacle}.", err=True)


def show_installed(
    control: ServiceControl, plan: ServicePlan, settings: Settings, *, serves: bool, started: bool
) -> None:
    """Say what was done, and what to type next."""
    echo(f"{control.file} is written: a {control.kind}, which runs `{shlex.join(plan.command)}`.")
    echo(f"  settings   {plan.folder / '.env'}{'' if (plan.folder / '.env').exists() else '   (none yet)'}")
    echo(f"  data       {plan.home}")
    if missing := left_behind(plan):
        echo(missing, err=True)
    if not started:
        echo("To start it, now and from then on:")
        for command in control.start():
            echo(f"  {shlex.join(command)}")
    elif serves:
        echo(f"It runs, and serves on {proxy_url(settings)}.")
    else:
        echo("It does not serve yet; `ccproxy service logs` shows why.", err=True)
    for line in control.advice():
        echo(line)
    echo("After a change of the settings: ccproxy service install. How it stands: ccproxy service status, ... logs -f")


def left_behind(plan: ServicePlan) -> str:
    """Return a line about variables of this shell that the service will not have, "" if there are none."""
    own = {*plan.variables, *read_dotenv(plan.folder / ".env"), *KEPT}
    names = {variable.name for variable in VARIABLES}
    missing = [
        name
        for name in os.environ
        if name not in own and (name.removesuffix("_FILE") in names or name.upper() in OUTSIDE_ONLY)
    ]
    if not missing:
        return ""
    return (
        f"This shell sets {', '.join(sorted(missing))}; the service does not have that. "
        f"What it needs belongs into {plan.folder / '.env'}."
    )


def show_status(control: ServiceControl, plan: ServicePlan, settings: Settings, state: ServiceState) -> None:
    """Print how the service stands."""
    echo(f"{control.kind}: {state.state}{f', process {state.pid}' if state.pid else ''}")
    echo(f"  file       {control.file}")
    echo(f"  command    {shlex.join(plan.command)}")
    echo(f"  settings   {plan.folder / '.env'}")
    echo(f"  data       {plan.home}")
    echo(f"  proxy      {proxy_url(settings)} {'answers' if is_serving(state, settings) else 'does not answer'}")
    if not os.access(plan.command[0], os.X_OK):
        echo(f"{plan.command[0]} is gone: install it again, then `ccproxy service install`.", err=True)
    elif not state.active:
        echo("`ccproxy service logs` shows why; `ccproxy service install` starts it.", err=True)
    for line in control.advice():
        echo(line)
