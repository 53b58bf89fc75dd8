// rhea with promises, and a transcript: each thing that happens is one line of JSON on stdout, in the order in which it happened.
// This file knows AMQP and no scene; it prints what came over the wire and judges nothing.
'use strict';

const rhea = require('rhea');

const XQUERY = 'apache.org:xquery-filter:string';
const XQUERY_CODE = 0x0000468C00000005;
// A scene that hangs ends with the name of what it waited for. The Python side gives the whole process longer than this.
const PATIENCE = 20000;

function say(line) {
    process.stdout.write(JSON.stringify(line) + '\n');
}

function xquery(text, descriptor = XQUERY) {
    return rhea.types.wrap_described(text, descriptor);
}

// The first of the named events on any of the emitters, as [name, context].
function first(what, ...pairs) {
    return new Promise((resolve, reject) => {
        const taken = [];
        const stop = () => {
            clearTimeout(timer);
            for (const [emitter, name, heard] of taken) emitter.removeListener(name, heard);
        };
        const timer = setTimeout(() => { stop(); reject(new Error(`${what}: nothing happened`)); }, PATIENCE);
        for (const [emitter, name] of pairs) {
            const heard = (context) => { stop(); resolve([name, context]); };
            taken.push([emitter, name, heard]);
            emitter.on(name, heard);
        }
    });
}

function failure(error) {
    return error ? { condition: String(error.condition), description: String(error.description) } : { condition: null };
}

async function connect(stage, options = {}) {
    const container = rhea.create_container();
    const connection = container.connect({
        host: stage.host, port: stage.port, username: stage.user, password: stage.password, reconnect: false, ...options,
    });
    connection.on('disconnected', () => {}); // rhea writes to stderr what nobody listens to
    const [name] = await first('open', [connection, 'connection_open'], [connection, 'connection_error'], [connection, 'disconnected']);
    return { connection, open: name === 'connection_open', error: connection.error || connection.get_error && connection.get_error() };
}

async function close(connection) {
    const closed = first('close', [connection, 'connection_close'], [connection, 'disconnected']);
    connection.close();
    await closed;
}

// An agent refuses a link by attaching it with a null terminus and detaching it at once (2.6.3), so the attach alone proves nothing.
async function attachSender(connection, options) {
    const sender = connection.open_sender(options);
    sender.on('sender_error', () => {}); // rhea ends the connection over an error that nobody listens to
    const [name] = await first('sender', [sender, 'sendable'], [sender, 'sender_close'], [sender, 'sender_error']);
    return name === 'sendable' ? { sender } : { refused: failure(sender.error) };
}

async function attachReceiver(connection, options) {
    const receiver = connection.open_receiver({ credit_window: 0, ...options });
    receiver.on('receiver_error', () => {});
    receiver.inbox = [];
    receiver.on('message', (context) => { receiver.inbox.push(context); receiver.emit('inbox', context); });
    await first('receiver', [receiver, 'receiver_open']);
    if (receiver.source && receiver.source.address) return { receiver };
    if (!receiver.error) await first('receiver', [receiver, 'receiver_close']);
    return { refused: failure(receiver.error) };
}

// One delivery at a time: its outcome, with the agent's words if it is rejected.
async function send(sender, message) {
    const told = first('outcome', [sender, 'accepted'], [sender, 'rejected'], [sender, 'released'], [sender, 'modified']);
    const delivery = sender.send(message);
    const [outcome] = await told;
    return outcome === 'rejected' ? { outcome, ...failure(delivery.remote_state.error) } : { outcome };
}

// The next message. Credit for it is granted here unless the scene says that there is some.
async function receive(receiver, credit = 1) {
    if (credit) receiver.add_credit(credit);
    if (!receiver.inbox.length) await first('message', [receiver, 'inbox']);
    return receiver.inbox.shift();
}

// What is in force on a link according to the attach answer: the filter map, with its descriptors.
function inForce(receiver) {
    const answer = {};
    const filter = receiver.source.filter || {};
    for (const key of Object.keys(filter)) {
        const entry = filter[key];
        const descriptor = entry.descriptor.value !== undefined ? entry.descriptor.value : entry.descriptor;
        answer[key] = { descriptor: String(descriptor), text: String(entry.value !== undefined ? entry.value : entry) };
    }
    return answer;
}

// A body in words: data sections are joined, a value is itself.
function bodyText(message) {
    const body = message.body;
    if (body && body.typecode === 0x75) {
        const content = Array.isArray(body.content) ? Buffer.concat(body.content) : body.content;
        return { section: 'data', text: content.toString('utf8') };
    }
    return { section: 'value', text: String(body) };
}

module.exports = { rhea, say, xquery, XQUERY, XQUERY_CODE, first, connect, close, attachSender, attachReceiver, send, receive, inForce, bodyText, failure };
