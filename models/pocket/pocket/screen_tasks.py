"""Scenes of the tasks that read a screen: ``notification``, ``setting`` and ``contact``."""

from __future__ import annotations

import random

from .scene import MAX_CONTEXT_CHARS, Scene, Turn, block, choose, phrase
from .screens import MESSAGES, NOTICES, SETTINGS, Message, Notice, Question, Setting
from .words import RELATIONS, Draw

MAX_DISTRACTORS = 5
_LINES = ((2, 4), (4, 8), (7, 15))
"""Fewest and most lines of a screen at each level of difficulty."""

_BOOK_FORMS = (
    "{name} ({relation}): {phone}",
    "{relation}: {name}, {phone}",
    "{relation} - {name} - {phone}",
    "{name}, {phone}, {relation}",
)
_MESSAGE_FORMS = (
    "{name}: {text}",
    "{name} wrote: {text}",
    "{text} - {name}",
    "{text} (from {name})",
)

_SIZES = ("Small", "Normal", "Large", "Huge")
_UNITS = ("Celsius", "Fahrenheit")


def _num_lines(draw: Draw, level: int) -> int:
    return draw.rng.randint(*_LINES[level])


class _Shown:
    """A notification on screen: its kind, the slots it was filled with, its text."""

    def __init__(self, draw: Draw, notice: Notice) -> None:
        self.notice = notice
        self.slots = draw.slots()
        self.text = draw.rng.choice(notice.texts).format(**self.slots)


def notice_lines(draw: Draw, count: int) -> list[str]:
    """Notifications as clutter."""
    kinds = draw.rng.sample(NOTICES, min(count, len(NOTICES)))
    return [_Shown(draw, kind).text for kind in kinds]


def with_clutter(draw: Draw, level: int, listing: str) -> str:
    """The listing, often with screen text that has nothing to do with it."""
    room = MAX_CONTEXT_CHARS - len(listing)
    if room < 200 or draw.rng.random() < 0.5:
        return listing
    lines = notice_lines(draw, draw.rng.randint(1, 3 + 3 * level))
    while lines and sum(map(len, lines)) + 40 > room:
        lines.pop()
    clutter = block("On screen", lines)
    return f"{clutter}\n{listing}" if draw.rng.random() < 0.7 else f"{listing}\n{clutter}"


def _has_one_answer(shown: _Shown, question: Question, screen: list[_Shown]) -> bool:
    """Whether no other notification of the same kind answers the question."""
    asked = question.text.format(**shown.slots)
    rivals = [s for s in screen if s is not shown and s.notice is shown.notice]
    return all(question.text.format(**r.slots) != asked for r in rivals)


def _notice_turn(draw: Draw, shown: _Shown, screen: list[_Shown]) -> Turn | None:
    notice = shown.notice
    questions = [notice.held_out_question] if draw.held_out else list(notice.questions)
    questions = [q for q in questions if _has_one_answer(shown, q, screen)]
    if not questions:
        return None
    question = draw.rng.choice(questions)
    answer = shown.slots[question.slot]
    same_slot = [s.slots[question.slot] for s in screen if s.slots[question.slot] in s.text]
    other = [v for s in screen for v in s.slots.values() if v in s.text and len(v) > 1]
    rivals = choose(draw.rng, answer, same_slot, 3)
    others = [v for v in rivals if v != answer]
    others += [v for v in choose(draw.rng, answer, other, MAX_DISTRACTORS) if v not in others]
    choices = choose(draw.rng, answer, others[:MAX_DISTRACTORS], MAX_DISTRACTORS)
    return Turn(phrase(draw.rng, question.text.format(**shown.slots)), answer, choices)


def notification_scene(draw: Draw, level: int, num_turns: int) -> Scene:
    """A shade of notifications, some kinds twice, and questions with one answer."""
    rng = draw.rng
    count = _num_lines(draw, level)
    kinds = rng.sample(NOTICES, min(count, len(NOTICES)))
    kinds = [k for kind in kinds for k in ([kind, kind] if rng.random() < 0.3 else [kind])][:count]
    screen = [_Shown(draw, kind) for kind in kinds]
    rng.shuffle(screen)
    while sum(len(s.text) + 3 for s in screen) > MAX_CONTEXT_CHARS:
        screen.pop()
    found = [_notice_turn(draw, s, screen) for s in rng.sample(screen, len(screen))]
    turns = [t for t in found if t is not None and len(t.choices) > 1]
    if not turns:
        return notification_scene(draw, level, num_turns)
    context = block("Notifications", [s.text for s in screen])
    return Scene("notification", context, tuple(turns[:num_turns]))


def setting_value(draw: Draw, kind: str) -> str:
    """A value that a setting of this kind may have."""
    rng = draw.rng
    fixed = {"switch": ("On", "Off"), "size": _SIZES, "unit": _UNITS}
    if kind in fixed:
        return rng.choice(fixed[kind])
    if kind == "minutes":
        return f"{rng.randint(1, 30)} min"
    return draw.slots()[kind]


def _change_request(rng: random.Random, name: str, kind: str, value: str) -> str:
    if kind == "switch":
        verb = rng.choice(("turn {v}", "switch {v}", "turn {v} the"))
        return f"{verb.format(v=value.lower())} {name}"
    verb = rng.choice(
        ("set {n} to {v}", "change {n} to {v}", "put the {n} at {v}", "I want {n} {v}")
    )
    return verb.format(n=name, v=value)


def _setting_turn(draw: Draw, screen: list[tuple[Setting, str]], index: int) -> Turn:
    rng = draw.rng
    setting, value = screen[index]
    seen, unseen = (setting.label, *setting.synonyms[:-1]), setting.synonyms[-1]
    name = unseen if draw.held_out and rng.random() < 0.5 else rng.choice(seen)
    name = name if rng.random() < 0.3 else name.lower()
    if rng.random() < 0.5:
        new = setting_value(draw, setting.kind)
        answer = f"{setting.label}={new}"
        same_kind = [f"{s.label}={new}" for s, _ in screen if s.kind == setting.kind]
        other_value = [f"{setting.label}={setting_value(draw, setting.kind)}" for _ in range(3)]
        choices = choose(rng, answer, same_kind + other_value, MAX_DISTRACTORS)
        return Turn(phrase(rng, _change_request(rng, name, setting.kind, new)), answer, choices)
    if setting.kind == "switch":
        question = rng.choice(("is {} on?", "is the {} on or off?", "what is the state of {}?"))
    else:
        question = rng.choice(("what is the {}?", "tell me the {}", "which {} is set?", "{}?"))
    values = ["On", "Off"] if setting.kind == "switch" else [v for _, v in screen]
    return Turn(question.format(name), value, choose(rng, value, values, MAX_DISTRACTORS))


def setting_scene(draw: Draw, level: int, num_turns: int) -> Scene:
    """A settings page; questions read a value or ask for a new one."""
    settings = draw.rng.sample(SETTINGS, _num_lines(draw, level))
    screen = [(s, setting_value(draw, s.kind)) for s in settings]
    order = draw.rng.sample(range(len(screen)), min(num_turns + 2, len(screen)))
    turns = [_setting_turn(draw, screen, i) for i in order]
    turns = [t for t in turns if len(t.choices) > 1] or turns
    context = block("Settings", [f"{s.label}: {v}" for s, v in screen])
    return Scene("setting", with_clutter(draw, level, context), tuple(turns[:num_turns]))


def _contact_questions(
    draw: Draw, names: list[str], relations: dict[str, str], phones: dict[str, str]
) -> list[Turn]:
    """One question about each person of the address book."""
    rng, turns = draw.rng, []
    for name, relation in relations.items():
        if rng.random() < 0.25:
            others = choose(rng, phones[name], list(phones.values()), MAX_DISTRACTORS)
            turns.append(Turn(f"what is the number of {name}?", phones[name], others))
            continue
        by_relation = (
            "who is my {r}?",
            "call my {r}",
            "write to my {r}",
            "whom do I call for my {r}?",
        )
        question = rng.choice(by_relation).format(r=relation)
        if rng.random() < 0.25:
            question = f"whose number is {phones[name]}?"
        turns.append(Turn(phrase(rng, question), name, choose(rng, name, names, MAX_DISTRACTORS)))
    return turns


def _message_turns(
    draw: Draw, names: list[str], sent: list[tuple[str, Message, dict[str, str]]]
) -> list[Turn]:
    turns = []
    for name, message, slots in sent:
        question = message.questions[-1] if draw.held_out else draw.rng.choice(message.questions)
        choices = choose(draw.rng, name, names, MAX_DISTRACTORS)
        turns.append(Turn(phrase(draw.rng, question.format(**slots)), name, choices))
    return turns


def contact_scene(draw: Draw, level: int, num_turns: int) -> Scene:
    """An address book and messages; questions ask for a person or a number."""
    rng = draw.rng
    names = draw.names(_num_lines(draw, level) // 2 + 1 + rng.randint(1, 3))
    num_people = max(1, len(names) - rng.randint(1, 3))
    people = names[:num_people]
    relations = dict(zip(people, rng.sample(RELATIONS, num_people), strict=True))
    phones = {name: draw.phone() for name in people}
    entry = rng.choice(_BOOK_FORMS)
    book = [entry.format(name=n, relation=relations[n], phone=phones[n]) for n in people]
    kinds = rng.sample(MESSAGES, max(1, min(num_people, len(MESSAGES))))
    sent = [(rng.choice(names), kind, draw.slots()) for kind in kinds]
    form = rng.choice(_MESSAGE_FORMS)
    lines = [form.format(name=n, text=kind.text.format(**slots)) for n, kind, slots in sent]
    turns = _contact_questions(draw, people, relations, phones) + _message_turns(draw, names, sent)
    rng.shuffle(turns)
    blocks = [block("Contacts", book), block("Messages", lines)]
    rng.shuffle(blocks)
    return Scene("contact", "\n".join(blocks), tuple(turns[:num_turns]))
