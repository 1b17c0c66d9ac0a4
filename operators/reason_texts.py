"""In which words is a reason told, in the person's language?

A sentence says what before why: `{title}, because you like {value}`. Where the content has no title
it begins with the rest. A policy's own templates come first; one that cannot be filled (an unknown
placeholder, no value to name) gives way to the next, so that no template can break a decision.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from schemas.events import Scalar
from schemas.guidance import Reasons

Reason = dict[str, str]
"""`code`, `text`, and `language` where that is not English."""
Languages = tuple[str, ...]
"""A person's languages, the best first."""
Title = str | dict[str, str] | None

ENGLISH: Final = "en"
LONGEST_TEXT: Final = 240
LONGEST_TITLE: Final = 80
LONGEST_VALUE: Final = 40
_REMEMBERED: Final = 4_096
_NEUTRAL: Final = "forced"
"""What is said of a code that has no sentence."""

BUILT_IN: Final[dict[str, dict[str, str]]] = {
    "affinity": {
        "en": "{title}, because you like {value}",
        "de": "{title}, passend zu Ihrem Interesse an {value}",
        "fr": "{title}, parce que vous aimez {value}",
        "es": "{title}, por su interés en {value}",
    },
    "predicted": {
        "en": "{title}, picked for you",
        "de": "{title}, für Sie ausgesucht",
        "fr": "{title}, choisi pour vous",
        "es": "{title}, elegido para usted",
    },
    "explored": {
        "en": "{title}, something new to discover",
        "de": "{title}, etwas Neues zum Entdecken",
        "fr": "{title}, une nouveauté à découvrir",
        "es": "{title}, algo nuevo por descubrir",
    },
    "popular": {
        "en": "{title}, popular right now",
        "de": "{title}, gerade beliebt",
        "fr": "{title}, apprécié en ce moment",
        "es": "{title}, popular en este momento",
    },
    "sticky": {
        "en": "{title}, still here for you",
        "de": "{title}, weiterhin für Sie da",
        "fr": "{title}, toujours là pour vous",
        "es": "{title}, sigue aquí para usted",
    },
    "incumbent": {
        "en": "{title}, part of our usual selection",
        "de": "{title}, aus unserer üblichen Auswahl",
        "fr": "{title}, dans notre sélection habituelle",
        "es": "{title}, de nuestra selección habitual",
    },
    "forced": {
        "en": "{title}, recommended by our team",
        "de": "{title}, empfohlen von unserem Team",
        "fr": "{title}, recommandé par notre équipe",
        "es": "{title}, recomendado por nuestro equipo",
    },
    "pinned": {
        "en": "{title}, recommended by our team",
        "de": "{title}, empfohlen von unserem Team",
        "fr": "{title}, recommandé par notre équipe",
        "es": "{title}, recomendado por nuestro equipo",
    },
    "prompt": {
        "en": "{title}: it is your choice",
        "de": "{title}: Sie entscheiden",
        "fr": "{title} : c'est vous qui choisissez",
        "es": "{title}: usted decide",
    },
    "fallback": {
        "en": "{title}, our pick for everyone",
        "de": "{title}, unsere Auswahl für alle",
        "fr": "{title}, notre sélection pour tous",
        "es": "{title}, nuestra selección para todos",
    },
    "fallback:consent_refused": {
        "en": "{title}, our pick for everyone: personalisation is switched off",
        "de": "{title}, unsere Auswahl für alle: Personalisierung ist ausgeschaltet",
        "fr": "{title}, notre sélection pour tous : la personnalisation est désactivée",
        "es": "{title}, nuestra selección para todos: la personalización está desactivada",
    },
    "fallback:privacy_signal": {
        "en": "{title}, our pick for everyone: your browser asked not to personalise",
        "de": "{title}, unsere Auswahl für alle: Ihr Browser bittet, nicht zu personalisieren",
        "fr": "{title}, notre sélection pour tous : votre navigateur refuse la personnalisation",
        "es": "{title}, nuestra selección para todos: su navegador pide no personalizar",
    },
}
"""Sentences by reason code (whole, else up to its colon) and language."""

_PLACEHOLDER: Final = re.compile(r"\{(title|value)\}")
_LEADING_TITLE: Final = re.compile(r"\s*\{title\}[\s,;:.–—-]*")
_LANGUAGE: Final = re.compile(r"([A-Za-z]{2,3})(?:[-_].*)?", re.DOTALL)
_LONGEST_LOCALE: Final = 64
_UNSAYABLE: Final = frozenset({"true", "false", "none", "null", "nan", "unknown", "other", "n/a"})


class _Sentence(NamedTuple):
    """A template in pieces: texts at even positions, placeholders' names between them."""

    pieces: tuple[str, ...]
    untitled: tuple[str, ...] | None

    def fill(self, title: str, value: str) -> str | None:
        """The sentence; None where it names what is not there, or is blank."""
        pieces = self.pieces if title else self.untitled
        if pieces is None or ("value" in pieces[1::2] and not value):
            return None
        named = {"title": title, "value": value}
        text = "".join([named[p] if i % 2 else p for i, p in enumerate(pieces)])
        return _cut(" ".join(text.split()), LONGEST_TEXT) or None


def _compile(template: str) -> _Sentence | None:
    """A template ready to fill; None where it has anything else in braces."""
    pieces = _pieces(template)
    if any("{" in text or "}" in text for text in pieces[::2]):
        return None
    leading = _LEADING_TITLE.match(template)
    rest = template[leading.end() :] if leading else template
    untitled = None if "{title}" in rest or not rest else _pieces(rest[0].upper() + rest[1:])
    return _Sentence(pieces, untitled)


def _pieces(template: str) -> tuple[str, ...]:
    return tuple(_PLACEHOLDER.split(template))


def _compiled(templates: Mapping[str, Mapping[str, str]]) -> dict[tuple[str, str], _Sentence]:
    found = {
        (code, language): _compile(template)
        for code, by_language in templates.items()
        for language, template in by_language.items()
    }
    return {key: sentence for key, sentence in found.items() if sentence is not None}


_BUILT_IN: Final = _compiled(BUILT_IN)


def language_of(said: object) -> str | None:
    """The language of a locale or a language tag; None where it is neither.

    >>> language_of("de-AT"), language_of("fr_FR.UTF-8"), language_of("*"), language_of(7)
    ('de', 'fr', None, None)
    """
    found = _LANGUAGE.fullmatch(said) if isinstance(said, str) else None
    return None if found is None else found[1].lower()


def _short(said: Scalar) -> str:
    return said if isinstance(said, str) and len(said) <= _LONGEST_LOCALE else ""


def legible(value: str) -> str | None:
    """A tag or an attribute value as a person may read it; None where it says nothing to people.

    >>> legible("trail_running"), legible("true"), legible("4711"), legible("a@b")
    ('trail running', None, None, None)
    """
    text = " ".join(value.replace("_", " ").split())
    if not text.isprintable() or len(text) > LONGEST_VALUE or text.lower() in _UNSAYABLE:
        return None
    if "@" in text or "://" in text or not any(map(str.isalpha, text)):
        return None
    return text


def _titled(title: Title, languages: Iterable[str]) -> str:
    if isinstance(title, dict):
        title = next((title[language] for language in languages if language in title), None)
    text = " ".join((title or "").split())
    return _cut(text, LONGEST_TITLE) if text.isprintable() else ""


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1].rstrip()}…"


class Texts:
    """The sentences of one policy.

    Told sentences are remembered: writing one costs more than a look-up. The memory is emptied when
    it grows too large.
    """

    def __init__(self, reasons: Reasons | None = None) -> None:
        reasons = reasons or Reasons()
        self._own = _compiled(reasons.templates)
        self._default = reasons.language
        spoken = {language for _, language in (*self._own, *_BUILT_IN)}
        self._spoken = frozenset(spoken)
        self._everything = tuple(sorted(spoken))
        self._chains: dict[tuple[str, str], Languages] = {}
        self._told: dict[object, Reason] = {}

    def languages(
        self, context: Mapping[str, Scalar], attributes: Mapping[str, Scalar]
    ) -> Languages:
        """The languages of a person: the context's locale, the attribute `language`, the policy's.

        Only those with a sentence; English comes last.
        """
        said = (_short(context.get("locale")), _short(attributes.get("language")))
        known = self._chains.get(said)
        if known is None:
            if len(self._chains) >= _REMEMBERED:
                self._chains.clear()
            wanted = (language_of(said[0]), language_of(said[1]), self._default, ENGLISH)
            known = tuple(dict.fromkeys(w for w in wanted if w is not None and w in self._spoken))
            self._chains[said] = known
        return known

    def has(self, code: str) -> bool:
        """Whether the policy has a sentence of its own for a code, in any language."""
        return any(own == code for own, _ in self._own)

    def tell(
        self,
        code: str,
        languages: Languages,
        *,
        title: Title = None,
        value: str = "",
        template: str | None = None,
        instead: str = _NEUTRAL,
    ) -> Reason:
        """The reason of a code, at most 240 characters long; not to be changed.

        `template` names the sentence where the code does not, `instead` the one to take where that
        names a value which says nothing to people.
        """
        key = (code, value, tuple(title.items()) if isinstance(title, dict) else title, languages)
        told = self._told.get(key)
        if told is None:
            if len(self._told) >= _REMEMBERED:
                self._told.clear()
            spoken = legible(value) or ""
            told = self._write(code, languages, title, spoken, (template or code, instead))
            self._told[key] = told
        return told

    def _write(
        self, code: str, languages: Languages, title: Title, value: str, templates: Iterable[str]
    ) -> Reason:
        chain = tuple(dict.fromkeys((*languages, ENGLISH)))
        for template in (*templates, _NEUTRAL):
            head = template.partition(":")[0]
            # In the person's language first, then in any rather than to say something else.
            for language in (*chain, *self._everything):
                titled = _titled(title, (language, *chain))
                for sentence in (
                    self._own.get((head, language)),
                    _BUILT_IN.get((template, language)),
                    _BUILT_IN.get((head, language)),
                ):
                    text = None if sentence is None else sentence.fill(titled, value)
                    if text is not None:
                        return _reason(code, text, language)
        raise AssertionError("the neutral sentence names nothing")


def _reason(code: str, text: str, language: str) -> Reason:
    told = {"code": code, "text": text}
    if language != ENGLISH:
        told["language"] = language
    return told
