// The admin API: requests, and the reasons why one fails (RFC 9457).

const TOKEN = 'tierflow-token';

export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || `the server answers ${status}`);
    this.status = status;
    this.body = body;
  }
}

// The token is kept for as long as the tab is.
export const token = {
  get: () => sessionStorage.getItem(TOKEN) || '',
  set: (value) => (value ? sessionStorage.setItem(TOKEN, value) : sessionStorage.removeItem(TOKEN)),
};

// The only place that a token goes to: no address has one.
export function bearer(text) {
  return text ? { authorization: `Bearer ${text}` } : {};
}

// Resolves with the answer, where it is a success.
export async function send(method, path, { body, headers, signal } = {}) {
  const shown = { ...bearer(token.get()), ...headers };
  let answer;
  try {
    answer = await fetch(path, { method, body, signal, headers: shown, cache: 'no-cache' });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Problem(0, { detail: 'Tierflow does not answer' });
  }
  if (answer.ok) return answer;
  const problem = new Problem(answer.status, await answer.json().catch(() => ({})));
  // What was shown here before is not known any more. Whoever tries another token is told so where that is typed.
  if (answer.status === 401 && !headers?.authorization) dispatchEvent(new CustomEvent('unknown', { detail: problem }));
  throw problem;
}

// Resolves with the JSON and the headers of the answer.
export async function ask(method, path, options) {
  const answer = await send(method, path, options);
  const told = await answer.json().catch(() => ({}));
  return { told, headers: answer.headers };
}

export async function get(path, options) {
  return (await ask('GET', path, options)).told;
}

export function post(path, body, options) {
  return ask('POST', path, { ...options, body: typeof body === 'string' ? body : JSON.stringify(body) });
}

const PATIENCE = 5;

// The same, for what only so many may ask at the same time: whose turn it is not (503) asks again.
export async function postInTurn(path, body, options) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await post(path, body, options);
    } catch (problem) {
      if (problem.status !== 503 || attempt === PATIENCE) throw problem;
      await new Promise((resolve) => { setTimeout(resolve, 500 * attempt); });
    }
  }
}

// path('/v1/policies', { kind: 'Tenant', search: '' }) is /v1/policies?kind=Tenant
export function path(base, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== '');
  const search = new URLSearchParams(given).toString();
  return search ? `${base}?${search}` : base;
}

export function documentPath(kind, name) {
  return `/v1/policies/${encodeURIComponent(kind)}/${encodeURIComponent(name)}`;
}

// The revision in an ETag, which is the base of a change.
export function revisionOf(headers) {
  return (headers.get('etag') || '').replace(/^W\//, '').replaceAll('"', '');
}
