"""The report of a measuring program: a line for each figure, beside its bound."""


def show_figure(what: str, figure: str, bound: str, *, ok: bool | None = None) -> None:
    """One line of a report."""
    verdict = "" if ok is None else "ok" if ok else "MISSED"
    print(f"{what:34} {figure:56} {bound:18} {verdict}".rstrip(), flush=True)
