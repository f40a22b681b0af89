"""What every module promises of ``infer`` (DESIGN, laws 1, 3, 8, 11, 12): one suite over all registered types."""

import itertools
from dataclasses import replace

import pytest
import torch

from serket.engine.exchange import check_reply
from serket.errors import DataError
from serket.messages import Gaussian, Particles
from serket.protocol import Evidence, Generative, Role, Trainable, extrinsic, traits
from serket.registry import lookup
from serket.testing.case import ABSENT, ROWS, generator, nothing
from serket.testing.run import expect, only

readers = only(lambda case: case.data is not None)
coupled = only(lambda case: case.time)
between = only(
    lambda case: (
        any(port.role == Role.CHILD for port in case.ports.values()) and case.options.get("communication") != "none"
    )  # a control in which nothing passes
)
exactly = only(lambda case: traits(case.fresh()).exact)
imaginers = only(lambda case: case.data is not None and isinstance(case.fresh(), Generative))

dreamers = only(
    lambda case: (
        case.data is not None
        and isinstance(case.fresh(), Generative)
        and traits(case.fresh()).exact
        and all(port.role == Role.PARENT for port in case.ports.values())
    )
)


def full(message):
    """A message in its largest form, so that forms compare: full precision, eight points, numbers for truth values."""
    message = message.full() if isinstance(message, Gaussian | Particles) else message
    parts = (message.padded(8) if isinstance(message, Particles) else message).tensors()
    return {name: values if values.is_floating_point() else values.double() for name, values in parts.items()}


def tensors(reply):
    """Every number of a reply, by name; messages in full form so that forms compare."""
    found = {} if reply.log_evidence is None else {"log_evidence": reply.log_evidence}
    for port, one in reply.messages.items():
        found |= {f"{port}.{part}": values for part, values in full(one).items()}
    return found


def same_bits(a, b, rows=slice(None), owed="the same question gets the same reply", fix="draw from `generator` only"):
    left, right = tensors(a), tensors(b)
    expect(left.keys() == right.keys(), f"{owed}: {sorted(left)}, then {sorted(right)}", fix)
    for name in left:
        expect(torch.equal(left[name][rows], right[name][rows]), f"{owed}, to the bit: {name} differs", fix)


def spoken(case, module, inbox, evidence):
    return extrinsic(case.infer(module, inbox, evidence), inbox, traits(module).own_prior)


def differ(a, b):
    pairs = zip(full(a).values(), full(b).values(), strict=True)
    return max(
        float((left.nan_to_num(neginf=-1e3) - right.nan_to_num(neginf=-1e3)).abs().max()) for left, right in pairs
    )


def test_echo(case):
    """Of the time plate: a row's reply does not depend on its own inbox; on its neighbours' it does."""
    module, evidence, inbox = case.fitted(), case.evidence(0), case.inbox(1)
    first = spoken(case, module, inbox, evidence)
    tilted = case.infer(module, inbox, evidence).tilted
    assert tilted <= set(case.ports)
    for port in case.ports:
        changes = []
        everyone = torch.ones(ROWS, dtype=torch.bool)
        for rows in torch.eye(ROWS, dtype=torch.bool) if case.time else everyone[None]:
            for other in (case.inbox(2)[port], case.inbox(3)[port] ** 5.0):
                changed = {**inbox, port: other.where(rows, inbox[port])}
                assert case.infer(module, changed, evidence).tilted == tilted
                after = spoken(case, module, changed, evidence)[port]
                changes.append(differ(first[port][rows], after[rows]))
        # A port that is declared tilted has to be: the declaration costs sweeps and exactness.
        if port in tilted:
            expect(min(changes) > 1e-6, f"a tilted reply depends on its own inbox: that on {port} does not",
                   "leave the port out of tilted")  # fmt: skip
        expect(port in tilted or max(changes) < 1e-12,
               f"the reply on {port} must not depend on the inbox at {port}: it moved by {max(changes):.3g}",
               f'send the likelihood, without inbox["{port}"] in it; if yours is a posterior, say '
               f'includes={{"{port}": frozenset({{"inbox"}})}}')  # fmt: skip


@readers
def test_a_row_without_data_is_the_same_as_no_data_at_all(case):
    """Of the time plate: a sequence without data."""
    module, inbox = case.fitted(), case.inbox(1)
    absent, others, apart = ((4, 5), [0, 2, 3], [3]) if case.time else (ABSENT, [0, 2, 3, 5], [2, 3, 5])
    planted = case.evidence(0, absent=absent)
    bare = planted.silent()
    some, none = case.infer(module, inbox, planted), case.infer(module, inbox, bare)
    owed = "a row without evidence gets the reply that it gets where there are no data"
    fix = "a row without evidence must reply vacuous: use .mask(evidence.present), and count no constant for it"
    same_bits(some, none, list(absent), owed, fix)
    everywhere = case.evidence(0, absent=range(ROWS))
    same_bits(case.infer(module, inbox, everywhere), none, slice(None), owed, fix)
    # Another pattern of NaN, the observed values as before: the rows that both observe do not move.
    more = case.evidence(0, absent=(*absent, 0))
    same_bits(case.infer(module, inbox, more), some, apart, "rows do not move with what other rows lack",
              "take no mean, count or scale over the rows in infer")  # fmt: skip
    # And data do something: or a module that is deaf would pass.
    heard = spoken(case, module, inbox, planted)
    for port in case.ports:
        deaf = bool(heard[port].is_vacuous()[others].any())
        expect(
            not deaf, f"rows with data say something: {port} is vacuous", "let the message depend on evidence.values"
        )


def test_nothing_in_nothing_out(case):
    module, evidence = case.fitted(), case.evidence(0, absent=range(ROWS))
    silence = {name: nothing(port, ROWS) for name, port in case.ports.items()}
    informed = case.inbox(1)
    above = {name: informed[name] if port.role == Role.PARENT else silence[name] for name, port in case.ports.items()}
    # What parents say of each other does not come back, either; but an equality of parents is no distribution.
    for inbox in (silence,) if case.type == "broadcast" else (silence, above):
        reply = case.infer(module, inbox, evidence)
        check_reply(str(case), module, reply, frozenset(case.ports), ROWS)
        for name, one in extrinsic(reply, inbox, traits(module).own_prior).items():
            if case.ports[name].role == Role.PARENT:
                vacuous = bool(one.is_vacuous().all())
                expect(vacuous, f"a row without evidence must reply vacuous on parent ports: {name} does not",
                       "use .mask(evidence.present); where only children speak, mask by them")  # fmt: skip
            else:  # under flat parents a child may hear nothing, but for rounding
                if isinstance(one, Gaussian):
                    one = one * type(one).standard((), one.size, dtype=one.dtype).expand(ROWS) ** 1e-9
                assert bool(one.is_semidefinite().all()), name
    # The prior on child ports: proper, and the same in every row (of the time plate, sequence) that hears the same.
    if case.time:
        evidence = replace(evidence, sequence=torch.tensor([0, 0, 0, 1, 1, 1]))
    again = torch.arange(ROWS) % 3 if case.time else slice(1)
    alike = {name: one[:1].expand(ROWS) for name, one in above.items()}
    for name, one in case.infer(module, alike, evidence).messages.items():
        if case.ports[name].role == Role.CHILD:
            assert bool(one.is_proper().all()) and not bool(one.is_vacuous().any()), name
            # Points are drawn row by row.
            assert isinstance(one, Particles) or differ(one, one[again].expand(ROWS)) < 1e-12, name


@between
def test_information_passes_through_without_evidence(case):
    module, evidence, inbox = case.fitted(), case.evidence(0, absent=range(ROWS)), case.inbox(1)
    children = [name for name, port in case.ports.items() if port.role == Role.CHILD]
    before = spoken(case, module, inbox, evidence)
    for heard, told in itertools.permutations(case.ports, 2):
        if heard in children or told in children:
            after = spoken(case, module, {**inbox, heard: case.inbox(2)[heard]}, evidence)
            assert differ(before[told], after[told]) > 1e-6, f"{heard} -> {told}"


@coupled
def test_rows_hear_their_sequence_and_no_other(case):
    module, evidence, inbox = case.fitted(), case.evidence(0).nothing(), case.inbox(1)
    before = tensors(case.infer(module, inbox, evidence))
    for changed, neighbours in ((0, [1, 2]), (2, [0, 1])):
        row = torch.arange(ROWS) == changed
        turned = {name: case.inbox(2)[name].where(row, one) for name, one in inbox.items()}
        after = tensors(case.infer(module, turned, evidence))
        messages = [name for name in before if name != "log_evidence"]
        if case.causal and changed == 2:
            assert all(torch.equal(before[name][:2], after[name][:2]) for name in messages)
            continue
        for neighbour in neighbours:  # a row without data hears them, too
            assert max(float((before[n] - after[n])[neighbour].abs().max()) for n in messages) > 1e-6, neighbour
        assert all(torch.equal(before[name][3:], after[name][3:]) for name in before)
    again = tensors(case.infer(module, inbox, replace(evidence, sequence=evidence.sequence * 7 + 100)))
    assert all(torch.equal(before[name], again[name]) for name in before), "ids are names"
    joined = tensors(case.infer(module, inbox, replace(evidence, sequence=None)))
    together = tensors(case.infer(module, inbox, replace(evidence, sequence=torch.zeros(ROWS, dtype=torch.int64))))
    assert all(torch.equal(joined[name], together[name]) for name in before), "without ids all rows are one sequence"


@coupled
def test_rows_of_a_sequence_that_are_apart_are_refused(case):
    module, inbox = case.fitted(), case.inbox(1)
    evidence = replace(case.evidence(0), sequence=torch.tensor([0, 1, 0, 1, 2, 2]))
    with pytest.raises(DataError) as caught:
        case.infer(module, inbox, evidence)
    assert "sequences 0, 1" in str(caught.value) and caught.value.fix


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_a_batch_is_its_rows(case, dtype):
    """Of the time plate: its sequences."""
    module, evidence, inbox = case.fitted(), case.evidence(0, dtype=dtype), case.inbox(1, dtype=dtype)
    if case.type != "product" or not case.options:  # a product of liars needs a reference
        silent = torch.arange(ROWS) != 3
        inbox = {name: one.mask(silent) for name, one in inbox.items()}
    together = case.infer(module, inbox, evidence)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for one in case.groups:
        alone = case.infer(module, {name: m[one] for name, m in inbox.items()}, evidence[one])
        for name, values in tensors(alone).items():
            whole = tensors(together)[name]
            scale = float(whole[whole.isfinite()].abs().max().clamp_min(1))
            torch.testing.assert_close(
                whole[one],
                values,
                rtol=0,
                atol=tolerance * scale,
                msg=lambda m, n=name: (
                    f"a batch is its rows: {n} is another when rows are asked alone\n{m}\n  fix: let no row see "
                    "another in infer; draw with serket.rows.row_normal(generator, evidence.row_id, ...)"
                ),
            )


@exactly
def test_evidence_is_the_integral_of_its_messages(case):
    """Z of the inbox is the integral of inbox and message at any port, times what that inbox has no say in."""
    module, evidence, inbox = case.fitted(), case.evidence(0), case.inbox(1)
    reply, said = case.infer(module, inbox, evidence), spoken(case, module, inbox, evidence)
    everyone = torch.ones(ROWS, dtype=torch.bool)
    for port in case.ports if reply.bound == "exact" else ():
        for rows in torch.eye(ROWS, dtype=torch.bool) if case.time else everyone[None]:
            other = case.inbox(2)[port].where(rows, inbox[port])
            moved = case.infer(module, {**inbox, port: other}, evidence).log_evidence - reply.log_evidence
            owed = (other * said[port]).log_z() - (inbox[port] * said[port]).log_z()
            moved, owed = (moved.sum(), owed.sum()) if case.time else (moved, owed)
            gap = float((moved - owed).abs().max())
            expect(gap < 1e-6, f"log_evidence and the message on {port} are of one factor: {gap:.3g} nats apart",
                   "let the message be the factor as a function of the variable, and log_evidence be the log of the "
                   "integral of inbox times factor")  # fmt: skip


@dreamers
def test_evidence_is_what_is_predicted(case):
    """Where all ports are parents: Z of the inbox = its integral times the density that predict gives x under it."""
    module, inbox = case.fitted(), case.inbox(1)
    evidence = case.evidence(0, absent=())
    reply = case.infer(module, inbox, evidence)
    if reply.bound != "exact":
        return
    imagined = module.predict(inbox, generator=generator(0))
    values = evidence.values if imagined.event_shape else evidence.values.squeeze(1)
    owed = sum(one.log_z() for one in inbox.values()) + imagined.log_prob(values)
    gap = float((reply.log_evidence - owed).abs().max())
    expect(gap < 1e-6, f"log_evidence is log_z of the inbox plus predict(inbox).log_prob(x): it is {gap:.3g} nats off",
           "let predict and infer be of one factor, constants included, or set exact = False")  # fmt: skip


def test_same_seed_same_bytes(case):
    replies = []
    for unrelated in (0, 1):
        torch.manual_seed(unrelated)
        replies.append(case.infer(case.fitted(), case.inbox(1), case.evidence(0), seed=5))
    same_bits(*replies)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_replies_fit_their_ports(case, dtype):
    module, inbox = case.fitted(), case.inbox(1, dtype=dtype)
    reply = case.infer(module, inbox, case.evidence(0, dtype=dtype))
    check_reply(str(case), module, reply, frozenset(case.ports), ROWS)
    for name, one in reply.messages.items():
        assert one.dtype == dtype, name
        # A tilted reply may be negative where the others conflict; with its inbox it is the projection, and proper.
        whole = one * inbox[name] if name in reply.tilted else one
        assert bool(whole.is_semidefinite().all()), name
    assert (reply.log_evidence is None) == (reply.bound == "none")
    if reply.log_evidence is not None:
        assert reply.log_evidence.dtype == dtype and bool(reply.log_evidence.isfinite().all())
    assert module.ports == case.ports
    assert lookup(case.type, case.kind) is type(module)


def test_only_what_is_asked_is_answered(case):
    module, evidence, inbox = case.fitted(), case.evidence(0), case.inbox(1)
    everything = case.infer(module, inbox, evidence)
    assert everything.messages.keys() == case.ports.keys()
    for size in range(len(case.ports) + 1):
        for asked in itertools.combinations(case.ports, size):
            reply = case.infer(module, inbox, evidence, ports=frozenset(asked))
            assert reply.messages.keys() == set(asked)
            same_bits(reply, replace(everything, messages={port: everything.messages[port] for port in asked}))


def test_infer_changes_nothing(case):
    module, evidence, inbox = case.fitted(), case.evidence(0), case.inbox(1)
    held = {f"{name}.{part}": values for name, one in inbox.items() for part, values in one.tensors().items()}
    held |= {"observed": evidence.observed, "row_id": evidence.row_id}
    held |= {} if evidence.values is None else {"values": evidence.values}
    held |= dict(module.state()) if isinstance(module, Trainable) else {}
    copies, shared, own = {name: values.clone() for name, values in held.items()}, torch.get_rng_state(), generator(0)
    module.infer(inbox, evidence, generator=own)
    assert all(torch.equal(values, copies[name]) for name, values in held.items())
    assert torch.equal(torch.get_rng_state(), shared)
    # Rows draw from the generator's seed: the next sweep gets the same numbers.
    assert torch.equal(own.get_state(), generator(0).get_state())
    if isinstance(module, Trainable):
        assert all(torch.equal(values, copies[name]) for name, values in module.state().items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@imaginers
def test_predictions_have_moments(case, dtype):
    module, inbox = case.fitted(), case.inbox(1, dtype=dtype)
    shared = torch.get_rng_state()
    imagined = module.predict(inbox, generator=generator(0))
    values = case.values(3).to(dtype)
    assert imagined.batch_shape == (ROWS,)
    if not case.categories:  # categories have probabilities, no moments
        assert imagined.event_shape == values.shape[1:]
        for moment in (imagined.mean, imagined.variance):
            assert moment.shape == values.shape and moment.dtype == dtype and bool(moment.isfinite().all())
        assert bool((imagined.variance >= 0).all())
    values = values if imagined.event_shape else values.squeeze(1)
    density = imagined.log_prob(values)
    assert density.dtype == dtype and bool(density.isfinite().all())
    # Beliefs have a say, row by row.
    turned = module.predict(
        {name: one[torch.arange(ROWS).roll(1)] for name, one in inbox.items()}, generator=generator(0)
    )
    assert not torch.allclose(turned.log_prob(values), density)
    again = module.predict(inbox, generator=generator(0))
    assert torch.equal(again.log_prob(values), density) and torch.equal(torch.get_rng_state(), shared)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_replies_stay_on_their_device(case):
    module, evidence, inbox = case.fitted(), case.evidence(0), case.inbox(1)
    there = {n: type(m)(**{k: v.cuda() for k, v in m.tensors().items()}) for n, m in inbox.items()}
    values = None if evidence.values is None else evidence.values.cuda()
    sequence = None if evidence.sequence is None else evidence.sequence.cuda()
    moved = Evidence(evidence.row_id.cuda(), values, evidence.observed.cuda(), sequence)
    if isinstance(module, Trainable):
        module.load({name: value.cuda() for name, value in module.state().items()})
    on_gpu = module.infer(there, moved, generator=torch.Generator("cuda").manual_seed(0))
    on_cpu = tensors(case.infer(case.fitted(), inbox, evidence))
    for name, values in tensors(on_gpu).items():
        assert values.is_cuda, name
        torch.testing.assert_close(values.cpu(), on_cpu[name], rtol=1e-8, atol=1e-8)
    if isinstance(module, Generative) and case.data is not None:
        imagined = module.predict(there, generator=torch.Generator("cuda"))
        assert imagined.mean.is_cuda and imagined.variance.is_cuda
