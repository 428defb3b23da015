"""handloom pull"""

from __future__ import annotations


def pull(name: str, *, revision: str | None = None, endpoint: str | None = None) -> None:
    """Fetch a GPT-2 model into the models folder, or bring it up to date.

    An interrupted pull resumes where it ended. Afterwards nothing needs the network.

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

    from handloom.checkpoints import pull as puller
    from handloom.console import column, note, progress, write

    columns = (column("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with progress(*columns, TimeRemainingColumn()) as bar:
        task = bar.add_task("Listing", total=None)

        def show(progress: puller.Progress) -> None:
            bar.update(task, description=progress.file, completed=progress.done, total=progress.total)

        try:
            pulled = puller.pull(name, revision=revision, endpoint=endpoint, on_progress=show)
        except KeyboardInterrupt:
            bar.stop()
            note("What was fetched is kept; the same command resumes.", "")
            raise
    model = pulled.model
    how = f"{pulled.fetched / 1e6:,.1f} MB fetched" if pulled.fetched else "nothing had to be fetched"
    write(f"{model.name} is in {model.folder}: {model.bytes / 1e6:,.1f} MB, {how}.")
    write(f"It is {model.repository} at revision {model.revision}.")
