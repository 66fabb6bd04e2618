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

function authorization() {
  return token.get() ? { authorization: `Bearer ${token.get()}` } : {};
}

// Resolves with the JSON and the headers of the answer.
export async function ask(method, path, { body, headers, signal } = {}) {
  const init = { method, body, signal, headers: { ...authorization(), ...headers }, cache: 'no-cache' };
  let answer;
  try {
    answer = await fetch(path, init);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Problem(0, { detail: 'Tierflow does not answer' });
  }
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Problem(answer.status, told);
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
