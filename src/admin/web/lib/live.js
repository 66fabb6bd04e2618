// What the server tells by itself: one stream of events for the whole page. Where there is none, traffic is polled. A page
// that nobody sees asks for nothing.

import { useEffect, useState } from '../vendor/preact.js';
import { get } from './api.js';
import { isKnown } from './session.js';
import { follow } from './stream.js';

const SECONDS_MAX = 300;
const EVENTS_MAX = 200;
const NAMES = ['generation', 'refused', 'node', 'nodes', 'change', 'lost'];
const POLL_MS = 2000;
const RETRY_MS = 15000;
const REOPEN_MS = 1000;

// state: connecting, live, polling or paused.
const store = { state: 'connecting', seconds: [], events: [] };
const watchers = new Set();
let following = null;
// The last event that is known. A stream that is opened anew goes on after it; 0 asks for all that the server remembers.
let lastId = 0;
let timer = 0;

function tell(change) {
  Object.assign(store, change);
  watchers.forEach((watcher) => watcher());
}

// Renders anew when something is told.
export function useLive() {
  const [, setTold] = useState(0);
  useEffect(() => {
    const watcher = () => setTold((told) => told + 1);
    watchers.add(watcher);
    return () => watchers.delete(watcher);
  }, []);
  return store;
}

// Calls back when an event of one of these names comes. Many Envoys at once are one event, and where events are lost anything
// may have happened.
export function onEvent(names, callback) {
  const means = (name) => names.includes(name) || (name === 'nodes' && names.includes('node')) || name === 'lost';
  const heard = ({ detail }) => means(detail.name) && callback(detail);
  bus.addEventListener('told', heard);
  return () => bus.removeEventListener('told', heard);
}
const bus = new EventTarget();

function add(second) {
  const older = store.seconds.filter((other) => other.at < second.at);
  tell({ seconds: [...older, second].slice(-SECONDS_MAX) });
}

function hear(event) {
  const { name } = event;
  let data;
  try {
    data = JSON.parse(event.data);
  } catch {
    return;
  }
  if (name === 'traffic') return add(data);
  if (!NAMES.includes(name)) return;
  lastId = event.id || lastId;
  if (name === 'lost') tell({ events: [] });
  const detail = { name, id: event.id, at: data.at || new Date().toISOString(), data };
  if (name !== 'lost') tell({ events: [detail, ...store.events].slice(0, EVENTS_MAX) });
  bus.dispatchEvent(new CustomEvent('told', { detail }));
}

async function loadSeconds() {
  const told = await get('/v1/traffic').catch(() => null);
  if (told) tell({ seconds: told.seconds });
  return told !== null;
}

function open() {
  close();
  if (document.hidden || !isKnown()) return tell({ state: 'paused' });
  tell({ state: 'connecting' });
  loadSeconds();
  const { signal } = (following = new AbortController());
  const reopen = () => {
    if (signal.aborted) return;
    tell({ state: 'connecting' });
    timer = setTimeout(open, REOPEN_MS);
  };
  // What the server refuses, it may refuse for a while; a connection that ends is opened anew.
  const failed = (problem) => (problem.status && !signal.aborted ? poll() : reopen());
  follow(`/v1/events?after=${lastId}`, { signal, opened: () => tell({ state: 'live' }), heard: hear }).then(reopen, failed);
}

function poll() {
  close();
  const until = Date.now() + RETRY_MS;
  const again = async () => {
    const answers = await loadSeconds();
    if (timer === 0) return;
    tell({ state: answers ? 'polling' : 'connecting' });
    timer = setTimeout(Date.now() < until ? again : open, POLL_MS);
  };
  timer = setTimeout(again, 0);
}

function close() {
  following?.abort();
  following = null;
  clearTimeout(timer);
  timer = 0;
}

export function start() {
  document.addEventListener('visibilitychange', () => {
    if (!document.hidden) return open();
    close();
    tell({ state: 'paused' });
  });
  // Somebody else may be shown something else.
  addEventListener('known', () => {
    lastId = 0;
    tell({ seconds: [], events: [] });
    open();
  });
  addEventListener('unknown', open);
}
