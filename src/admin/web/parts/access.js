// Who one is to the server, and whether that may change something.

import { html, useEffect, useState } from '../vendor/preact.js';
import { token } from '../lib/api.js';
import { usePoll } from '../lib/poll.js';
import { Field, Notice } from './basics.js';

const CHANGED = 'token';

// The token that is shown from now on; none where it is empty.
function use(text) {
  token.set(text);
  dispatchEvent(new Event(CHANGED));
}

// { who, reason, takes_tokens, policies } and whether there is a way to write.
export function useAccess() {
  const { data: access, reload } = usePoll('/v1/access', { seconds: 30 });
  useEffect(() => {
    addEventListener(CHANGED, reload);
    return () => removeEventListener(CHANGED, reload);
  }, []);
  return { access, mayWrite: Boolean(access?.who) && access.policies === 'etcd', reload };
}

// Why nothing can be changed here, with what to do about it.
export function ReadOnly() {
  const { access } = useAccess();
  if (!access) return null;
  if (access.policies === 'files') {
    return html`<${Notice} icon="lock">Policies come from files here, and files are the truth: change those. A change can be tried here before.<//>`;
  }
  if (access.who) return null;
  return html`<${Notice} icon="lock"><p>${token.get() ? 'That token is not known here.' : sentence(access.reason)}</p>${access.takes_tokens && html`<${SignIn} />`}<//>`;
}

function SignIn() {
  const [text, setText] = useState('');
  const submit = (event) => {
    event.preventDefault();
    use(text.trim());
    setText('');
  };
  return html`<form class="sign-in" onSubmit=${submit}>
    <${Field} label="Token" hint="Kept until this tab is closed."><input type="password" name="token" required value=${text} onInput=${(event) => setText(event.target.value)} autocomplete="off" /><//>
    <button>Use it</button>
  </form>`;
}

export function WhoAmI({ access }) {
  if (!access?.who) return null;
  return html`<p class="muted">You are <b>${access.who}</b> in the audit log.${access.takes_tokens && html` <button type="button" class="link" onClick=${() => use('')}>Forget the token</button>`}</p>`;
}

function sentence(text) {
  return text ? `${text.charAt(0).toUpperCase()}${text.slice(1)}.` : '';
}
