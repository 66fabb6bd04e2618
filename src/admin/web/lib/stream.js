// Server-sent events (HTML Living Standard, section 9.2) by `fetch`: an EventSource shows no token.

import { send } from './api.js';

// Resolves at the end of the stream. An event has a name, an id and data; the id is that of the last event that had one.
export async function follow(path, { signal, opened, heard }) {
  const answer = await send('GET', path, { signal, headers: { accept: 'text/event-stream' } });
  opened();
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  const take = parser(heard);
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    take(value);
  }
}

// Takes the text as it comes, in pieces of any size.
export function parser(heard) {
  let rest = '';
  let id = '';
  let event = { name: 'message', data: [] };
  const line = (text) => {
    if (text === '') {
      if (event.data.length) heard({ name: event.name, id, data: event.data.join('\n') });
      event = { name: 'message', data: [] };
      return;
    }
    const colon = text.indexOf(':');
    const field = colon < 0 ? text : text.slice(0, colon);
    const value = colon < 0 ? '' : text.slice(colon + 1).replace(/^ /, '');
    if (field === 'event') event.name = value;
    else if (field === 'data') event.data.push(value);
    else if (field === 'id') id = value;
  };
  return (text) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop();
    lines.forEach((text) => line(text.replace(/\r$/, '')));
  };
}
