// Who asks: what the server says of whoever opened the page, and the token that says who that is.

import { useEffect, useState } from '../vendor/preact.js';
import { bearer, get, token } from './api.js';

const LOOK_MS = 30000;

// access: { who, kind, role, takes_tokens, policies }. problem: why there is none; what is typed is kept until it is known who
// types on.
const session = { access: undefined, problem: null };
const watchers = new Set();

function tell(change) {
  Object.assign(session, change);
  watchers.forEach((watcher) => watcher());
}

// False while nothing would be answered: then nothing is asked.
export function isKnown() {
  return session.access !== undefined && session.problem === null;
}

function know(access) {
  const isNew = !isKnown() || session.access.who !== access.who;
  tell({ access, problem: null });
  if (isNew) dispatchEvent(new Event('known'));
}

async function look() {
  try {
    know(await get('/v1/access'));
  } catch (problem) {
    // A server that is away says nothing of who asks.
    if ([401, 403, 421].includes(problem.status)) tell({ problem });
    else if (!session.access) setTimeout(look, 1000);
  }
}

// Fails where the token is not known; then the one of before counts on.
export async function signIn(text) {
  const access = await get('/v1/access', { headers: bearer(text) });
  token.set(text);
  know(access);
}

// Nothing that was shown stays.
export function signOut() {
  token.set('');
  tell({ access: undefined, problem: null });
  look();
}

export function useSession() {
  const [, setTold] = useState(0);
  useEffect(() => {
    const watcher = () => setTold((told) => told + 1);
    watchers.add(watcher);
    return () => watchers.delete(watcher);
  }, []);
  return session;
}

export function start() {
  addEventListener('unknown', ({ detail }) => {
    token.set('');
    tell({ problem: detail });
  });
  setInterval(() => document.hidden || !isKnown() || look(), LOOK_MS);
  look();
}
