"""handloom pull"""

from __future__ import annotations


def pull(name: str, *, revision: str | None = None, endpoint: str | None = None) -> None:
    """Fetch a GPT-2 model into the models folder.

    An interrupted pull goes on where it ended. A model that is here is brought up to date. After that,
    nothing needs the network any more.

    Parameters
    ----------
    name
        gpt2, gpt2-medium, gpt2-large, gpt2-xl, distilgpt2, or owner/name.
    revision
        Branch, tag or commit; the newest of the main branch if not given.
    endpoint
        Address of another hub or a mirror. HF_ENDPOINT sets it for good; HF_TOKEN is respected.
    """
    from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

    from handloom.checkpoints.pulling import Progress
    from handloom.checkpoints.pulling import pull as fetch
    from handloom.console import column, note, progress, write

    columns = (column("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with progress(*columns, TimeRemainingColumn()) as bar:
        task = bar.add_task("Asking", total=None)

        def show(progress: Progress) -> None:
            bar.update(task, description=progress.file, completed=progress.done, total=progress.total)

        try:
            ended = fetch(name, revision=revision, endpoint=endpoint, on_progress=show)
        except KeyboardInterrupt:
            bar.stop()
            note("What was fetched is kept; the same command goes on.", "")
            raise
    model = ended.model
    how = f"{ended.fetched / 1e6:,.1f} MB fetched" if ended.fetched else "nothing had to be fetched"
    write(f"{model.name} is in {model.folder}: {model.bytes / 1e6:,.1f} MB, {how}.")
    write(f"It is {model.repository} at revision {model.revision}.")
