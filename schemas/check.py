"""Are this policy and this catalogue right, and if not, what is wrong with them, all at once?

Text in, values out: `flows` reads the files. Every part reports what it can although other parts
are broken: the syntax first, then the shape (the models), then what refers to what.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.catalogue import Content
from schemas.check_catalogue import Listed, check_catalogue, check_together
from schemas.check_policy import check_policy
from schemas.documents import Document, read_json_lines, read_yaml
from schemas.mistakes import Mistake, failed, in_file_order
from schemas.policy import Policy
from schemas.validation import validate

Contents = tuple[Content, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """A policy and a catalogue with all their mistakes, in the order of file and line.

    `policy` and `contents` are None where the file has an error (warnings do not count), `contents`
    also where there was no catalogue to read.
    """

    policy: Policy | None
    contents: Contents | None
    mistakes: tuple[Mistake, ...]

    @property
    def failed(self) -> bool:
        """Whether anything is more than a warning."""
        return failed(self.mistakes)


def load_policy(text: str, *, name: str) -> tuple[Policy | None, list[Mistake]]:
    """The policy of a YAML text, and every mistake in it; None where one is an error."""
    checked = load(text, policy_name=name)
    return checked.policy, list(checked.mistakes)


def load_catalogue(text: str, *, name: str) -> tuple[Contents | None, list[Mistake]]:
    """The contents of a catalogue, and every mistake that it shows without a policy.

    A name that ends in .jsonl or .ndjson (then perhaps .gz) holds one JSON object a line, any other
    a YAML list.
    """
    listed, mistakes = _read_catalogue(text, name=name)
    return _contents(listed, mistakes), in_file_order(mistakes)


def load(
    policy_text: str,
    *,
    policy_name: str,
    catalogue_text: str | None = None,
    catalogue_name: str = "catalogue",
) -> Checked:
    """A policy and its catalogue, checked alone and against each other."""
    policy_document, mistakes = read_yaml(policy_text, name=policy_name)
    policy: Policy | None = None
    if policy_document is not None:
        policy, broken = validate(Policy, policy_document)
        mistakes += [*broken, *check_policy(policy_document)]
    contents: Contents | None = None
    if catalogue_text is not None:
        listed, in_catalogue = _read_catalogue(catalogue_text, name=catalogue_name)
        if policy_document is not None:
            together = check_together(policy_document, policy, listed)
            mistakes += [m for m in together if m.file != catalogue_name]
            in_catalogue += [m for m in together if m.file == catalogue_name]
        contents = _contents(listed, in_catalogue)
        mistakes += in_catalogue
    if failed(mistake for mistake in mistakes if mistake.file == policy_name):
        policy = None
    return Checked(policy, contents, tuple(in_file_order(mistakes)))


def _contents(listed: list[Listed], mistakes: list[Mistake]) -> Contents | None:
    if failed(mistakes):
        return None
    return tuple(item.content for item in listed if item.content is not None)


def _read_catalogue(text: str, *, name: str) -> tuple[list[Listed], list[Mistake]]:
    documents, mistakes = _documents(text, name=name)
    listed: list[Listed] = []
    for document in documents:
        content, broken = validate(Content, document)
        mistakes += broken
        listed.append(Listed(document, content))
    return listed, [*mistakes, *check_catalogue(listed)]


def _documents(text: str, *, name: str) -> tuple[list[Document], list[Mistake]]:
    if name.removesuffix(".gz").endswith((".jsonl", ".ndjson")):
        return read_json_lines(text, name=name)
    document, mistakes = read_yaml(text, name=name)
    if document is None:
        return [], mistakes
    if not isinstance(document.value, list):
        return [], [*mistakes, document.unexpected((), document.value, expected="a list")]
    contents = [
        Document(name, value, document.places, (i,)) for i, value in enumerate(document.value)
    ]
    return contents, mistakes
