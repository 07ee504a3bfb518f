import pytest, torch
from dataclasses import replace
from types import SimpleNamespace
from torch.testing import assert_close
from arsr.lab.composition import (
    AttributeClassifier, LabelledPortraits, Reading, accuracy, classifier_loss, composition_figures, given_options,
    load_classifier, obedience, option_questions, read_portraits, seen_pair, true_portraits)
from arsr.portraits import (
    PAIRS, Portraits, attribute_options, has_pair, portrait_families, portrait_rows, render_portrait)

@pytest.fixture(scope='module')
def reader(): return load_classifier()

def test_every_question_has_its_own_probabilities():
    net, questions = AttributeClassifier().eval(), option_questions()
    with torch.no_grad(): p = net(torch.rand(3, 3, 64, 64)).exp()
    for q in questions.unique(): assert_close(p[:, questions == q].sum(1), torch.ones(3))
    assert (questions == 0).sum() == len(portrait_families())

def test_labels_point_at_their_options():
    names, families = [*portrait_rows()], [*portrait_families()]
    item = LabelledPortraits()[5]
    at = given_options(item['label'][None])[0].tolist()
    family = families[at[0]]
    for place in at[1:]: assert place == -1 or names[place - len(families)][0] == family

def test_the_loss_is_that_of_the_options_given():
    item = LabelledPortraits()[3]
    batch = {k: v[None] for k, v in item.items()}
    net = AttributeClassifier().eval()
    with torch.no_grad(): p = net(batch['image'])[0]
    at = [k for k in given_options(batch['label'])[0].tolist() if k >= 0]
    assert_close(classifier_loss(net, batch), -p[at].mean())

@pytest.mark.parametrize('split', ['valid', 'pairs'])
def test_the_classifier_reads_what_it_was_not_trained_on(reader, split):
    pictures, truths = true_portraits(split, 60)
    readings = read_portraits(reader, pictures)
    assert accuracy(readings, truths) > .94
    assert all(r.family == t['family'] for r, t in zip(readings, truths))

def test_figures_of_portraits_whose_parts_are_known():
    drawn = [Portraits('pairs').portrait(k) for k in range(200)]
    readings = [Reading(x.family, x.attributes, k / 200) for k, x in enumerate(drawn)]
    found = composition_figures(readings, .5)
    assert found['whole'] == .5 and found['forbidden'] == 1 and found['n'] == 200
    assert 0 < found['forbidden_if_independent'] < .5

def test_pairs_that_training_has_seen():
    for family, pairs in PAIRS.items():
        for pair in pairs:
            other = seen_pair(family, pair)
            assert other.keys() == pair.keys() and all(other[k] in attribute_options(family)[k] for k in other)
            parts = Portraits('all', family).portrait(0).parts | other
            assert not all(parts[k] in pair[k] for k in pair)

def test_who_draws_what_is_asked_for_obeys(reader):
    def generate(n, seed, family, **wanted):
        made = [Portraits('all', family).portrait(seed + k) for k in range(n)]
        made = [replace(x, parts=x.parts | wanted) for x in made]
        assert all({*wanted.items()} <= {*x.parts.items()} for x in made)
        pictures = torch.stack([render_portrait(x, (64, 64)) for x in made])
        return SimpleNamespace(render=lambda size: pictures)
    rows = obedience(SimpleNamespace(generate=generate), reader, n=4)
    assert len(rows) == 16 and sum(r['forbidden'] for r in rows) == 8
    assert sum(r['obeyed'] for r in rows) / len(rows) > .8
    assert all(has_pair(r['family'], Portraits('all', r['family']).portrait(0).parts | r['pair']) for r in rows
               if r['forbidden'])
