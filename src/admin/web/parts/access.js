// Who one is to the server, and whether that may change something.

import { html, useState } from '../vendor/preact.js';
import { token } from '../lib/api.js';
import { signIn, signOut, useSession } from '../lib/session.js';
import { Field, Heading, Notice } from './basics.js';

// Who asks, and what that may: `mayWrite` changes, `mayForce` those that need a reason.
export function useAccess() {
  const { access } = useSession();
  const mayWrite = ['operator', 'admin'].includes(access?.role) && access.policies === 'etcd';
  return { access, mayWrite, mayForce: mayWrite && access.role === 'admin' };
}

// Why nothing can be changed here, with what to do about it.
export function ReadOnly() {
  const { access, mayWrite } = useAccess();
  if (!access || mayWrite) return null;
  if (access.policies === 'files') {
    return html`<${Notice} icon="lock">Policies come from files here, and files are the truth: change those. A change can be tried here before.<//>`;
  }
  return html`<${Notice} icon="lock">
    <p>You are a ${access.role} here: a change can be tried, and made by an operator.</p>
    ${access.takes_tokens && html`<${SignInForm} />`}
  <//>`;
}

function SignInForm() {
  const [text, setText] = useState('');
  const [failure, setFailure] = useState(null);
  const submit = async (event) => {
    event.preventDefault();
    try {
      await signIn(text.trim());
    } catch (problem) {
      setFailure(problem);
    }
    setText('');
  };
  return html`<form class="sign-in" onSubmit=${submit}>
    <${Field} label="Token" hint="Kept until this tab is closed."><input type="password" name="token" required value=${text} onInput=${(event) => setText(event.target.value)} autocomplete="off" /><//>
    <button class="primary">Sign in</button>
    ${failure && html`<p class="bad-words" role="alert">${sentence(failure.message)}</p>`}
  </form>`;
}

// All that is shown to whoever is not known.
export function SignIn({ problem }) {
  const isKnowable = problem.status === 401;
  return html`<main id="main" class="alone">
    <${Heading} title=${isKnowable ? 'Sign in' : 'Nothing to see here'}>${sentence(problem.message)}<//>
    ${isKnowable && html`<${SignInForm} />`}
    ${!isKnowable && token.get() && html`<button type="button" onClick=${signOut}>Sign out</button>`}
  </main>`;
}

export function WhoAmI() {
  const { access } = useSession();
  if (!access) return null;
  return html`<p class="who" title="In the audit log: ${access.who}"><b>${access.who}</b><span class="muted">${access.role}</span>
    ${token.get() && html`<button type="button" class="link" onClick=${signOut}>Sign out</button>`}</p>`;
}

function sentence(text) {
  return text ? `${text.charAt(0).toUpperCase()}${text.slice(1)}.` : '';
}
