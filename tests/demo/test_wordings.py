"""The examination is worth something only while it asks what training did not."""

from gemma3n_appliance.demo import conversations, examination, words


def test_every_topic_and_skill_is_taught_and_examined():
    taught, heldout = conversations.wordings("taught"), conversations.wordings("heldout")
    assert taught.by_key.keys() == heldout.by_key.keys()
    assert taught.by_key.keys() >= taught.answers.keys()
    assert len(taught.answers) >= 40


def test_no_heldout_wording_is_taught():
    taught = {_plain(text) for texts in conversations.wordings("taught").by_key.values() for text in texts}
    heldout = {text for texts in conversations.wordings("heldout").by_key.values() for text in texts}
    assert not [text for text in heldout if taught & _without_additions(text)]


def test_heldout_names_and_words_are_not_listed_for_training():
    assert not set(words.listed("names")) & set(words.listed("names_heldout"))
    assert not set(words.listed("words")) & set(words.listed("words_heldout"))


def test_no_two_topics_share_an_answer():
    answers = conversations.wordings("taught").answers
    assert len(set(answers.values())) == len(answers)


def test_an_examination_is_the_same_for_the_same_seed():
    first, second = (examination.questions(7, 3) for _ in range(2))
    assert [x.expected for x in first] == [x.expected for x in second]


def test_a_wrong_answer_is_marked_wrong():
    question = examination.questions(7, 1)[0]
    assert examination.Mark(question, f" {question.expected}\n").right
    assert not examination.Mark(question, question.expected + " Or not.").right


def _without_additions(text: str) -> set[str]:
    """``text``, and what of it a hurried person may have added to."""
    text = _plain(text)
    shorter = {text.removeprefix(_plain(opening)) for opening in conversations.OPENINGS} | {text}
    return shorter | {
        rest.removesuffix(_plain(closing)) for rest in shorter for closing in conversations.CLOSINGS
    }


def _plain(text: str) -> str:
    return "".join(character for character in text.lower() if character.isalnum())
