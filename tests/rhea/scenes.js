// The scenes: what other people's client does on the bus, one function each. The transcript is what they say; see bus.js.
'use strict';

const crypto = require('crypto');
const bus = require('./bus.js');

const { say, rhea } = bus;

function data(text) {
    return rhea.message.data_section(Buffer.from(text));
}

async function start(stage) {
    const { connection } = await bus.connect(stage);
    return connection;
}

async function publisher(connection, stage) {
    return (await bus.attachSender(connection, stage.domain)).sender;
}

async function subscriber(connection, source) {
    return (await bus.attachReceiver(connection, { source })).receiver;
}

async function open(stage) {
    const { connection, open, error } = await bus.connect(stage);
    if (!open) {
        say({ open, ...bus.failure(error) });
        return;
    }
    const offered = connection.remote.open.offered_capabilities;
    say({ open, offered: [].concat(offered), product: connection.remote.open.properties.product });
    await bus.close(connection);
}

// Sends each of stage.messages, one after the other.
async function publish(stage) {
    const connection = await start(stage);
    const sender = await publisher(connection, stage);
    for (const [what, text] of stage.messages) say({ what, ...(await bus.send(sender, { body: data(text) })) });
    await bus.close(connection);
}

// Sends events that are settled already; those that can be taken arrive.
async function publishSettled(stage) {
    const connection = await start(stage);
    const receiver = await subscriber(connection, { address: stage.domain });
    const { sender } = await bus.attachSender(connection, { target: stage.domain, snd_settle_mode: 1 });
    receiver.add_credit(10);
    for (const [what, text] of stage.messages) say({ what, settled: sender.send({ body: data(text) }).settled });
    for (let index = 0; index < stage.arrive; index++) {
        const { message } = await bus.receive(receiver, 0);
        say({ arrived: bus.bodyText(message) });
    }
    await bus.close(connection);
}

// Subscribes with stage.filter (or without), sends stage.messages, shows the attach answer and what arrives of them.
async function subscribe(stage) {
    const connection = await start(stage);
    const source = { address: stage.address || stage.domain };
    if (stage.filter) source.filter = { [stage.key || 'xquery']: bus.xquery(stage.filter, stage.descriptor) };
    const options = { source, snd_settle_mode: stage.settled ? 1 : 0 };
    const { receiver } = await bus.attachReceiver(connection, options);
    say({ attached: receiver.source.address, inForce: bus.inForce(receiver) });
    receiver.add_credit(100);
    const sender = await publisher(connection, stage);
    for (const [what, text, properties] of stage.messages) {
        say({ what, ...(await bus.send(sender, { body: data(text), application_properties: properties })) });
    }
    for (let index = 0; index < stage.arrive; index++) {
        const { message, delivery } = await bus.receive(receiver, 0);
        say({ arrived: bus.bodyText(message).text, settled: delivery.remote_settled });
    }
    await bus.close(connection);
}

// Asks for each of stage.links and shows how it is refused; the connection stays of use.
async function refused(stage) {
    const connection = await start(stage);
    for (const { role, address, filter } of stage.links) {
        const source = { address };
        if (filter) source.filter = { xquery: bus.xquery(filter) };
        const answer = role === 'sender' ? await bus.attachSender(connection, address) : await bus.attachReceiver(connection, { source });
        say({ role, address, ...answer.refused });
    }
    const sender = await publisher(connection, stage);
    say({ after: 'valid', ...(await bus.send(sender, { body: data(stage.valid) })) });
    await bus.close(connection);
}

// Calls stage.calls over a dynamic reply address.
async function command(stage) {
    const connection = await start(stage);
    const { receiver } = await bus.attachReceiver(connection, { source: { dynamic: true } });
    const replyTo = receiver.source.address;
    const { sender } = await bus.attachSender(connection, stage.address || `${stage.domain}.command.core`);
    for (const [index, request] of stage.calls.entries()) {
        const sent = await bus.send(sender, { reply_to: replyTo, correlation_id: `call-${index}`, body: JSON.stringify(request) });
        const { message } = await bus.receive(receiver);
        say({ sent: sent.outcome, correlation: message.correlation_id, answer: JSON.parse(message.body) });
    }
    say(await bus.send(sender, { reply_to: 'somebody-else', body: JSON.stringify(stage.calls[0]) }));
    await bus.close(connection);
}

// The same event in every form that a body can have.
async function bodies(stage) {
    const connection = await start(stage);
    const receiver = await subscriber(connection, { address: stage.domain });
    const sender = await publisher(connection, stage);
    const bytes = Buffer.from(stage.valid);
    const forms = {
        data: rhea.message.data_section(bytes),
        'several data': rhea.message.data_sections([bytes.subarray(0, 7), bytes.subarray(7, 40), bytes.subarray(40)]),
        string: stage.valid,
        binary: bytes,
        number: 42,
        nothing: null,
    };
    for (const [form, body] of Object.entries(forms)) {
        const answer = await bus.send(sender, { body });
        say({ form, ...answer, ...(answer.outcome === 'accepted' ? bus.bodyText((await bus.receive(receiver)).message) : {}) });
    }
    await bus.close(connection);
}

async function large(stage) {
    const connection = await start(stage);
    const receiver = await subscriber(connection, { address: stage.domain });
    const sender = await publisher(connection, stage);
    say(await bus.send(sender, { body: data(stage.event) }));
    const { text } = bus.bodyText((await bus.receive(receiver)).message);
    say({ bytes: text.length, sha256: crypto.createHash('sha256').update(text).digest('hex') });
    await bus.close(connection);
}

// What the sender says of a message arrives as it was; annotations in the bus's own name do not.
async function bare(stage) {
    const connection = await start(stage);
    const receiver = await subscriber(connection, { address: stage.domain });
    const sender = await publisher(connection, stage);
    say(await bus.send(sender, {
        message_id: 'id-1', user_id: Buffer.from(stage.user), to: stage.domain, subject: 'a subject', reply_to: 'back', correlation_id: 7,
        content_type: 'application/xml', creation_time: new Date(1717161600000), group_id: 'group', group_sequence: 3,
        application_properties: { customer: 'ACME', count: rhea.types.wrap_long(5), exact: true, ratio: 0.5 },
        message_annotations: { 'x-opt-clacks-user': 'somebody', 'x-opt-mine': 'kept' },
        body: data(stage.valid),
    }));
    const { message } = await bus.receive(receiver);
    const { body, header, message_annotations: notes, ...rest } = message.toJSON();
    say({ body: bus.bodyText({ body }).text });
    say({ ...rest, user_id: rest.user_id.toString(), creation_time: rest.creation_time.getTime() });
    say({ ...notes, 'x-opt-clacks-id': typeof notes['x-opt-clacks-id'], 'x-opt-clacks-time': notes['x-opt-clacks-time'] > 1717161600000 });
    await bus.close(connection);
}

// One receiver reads one event at a time, another all of them on the same connection, which shows when the first could have had more.
async function credit(stage) {
    const connection = await start(stage);
    const slow = await subscriber(connection, { address: stage.domain });
    const eager = await subscriber(connection, { address: stage.domain });
    const sender = await publisher(connection, stage);
    slow.add_credit(1);
    eager.add_credit(100);
    for (const [, text] of stage.messages) await bus.send(sender, { body: data(text) });
    for (let index = 0; index < stage.messages.length; index++) await bus.receive(eager, 0);
    say({ credit: 1, arrived: slow.inbox.map(({ message }) => bus.bodyText(message).text) });
    slow.inbox.length = 0;
    say({ credit: 'one more', arrived: bus.bodyText((await bus.receive(slow)).message).text });
    const drained = bus.first('drained', [slow, 'receiver_drained']);
    slow.drain = true;
    slow.add_credit(10);
    await drained;
    say({ drained: true, credit: slow.credit, arrived: slow.inbox.map(({ message }) => bus.bodyText(message).text) });
    await bus.close(connection);
}

module.exports = { open, publish, publishSettled, subscribe, refused, command, bodies, large, bare, credit };
