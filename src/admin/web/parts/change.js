// A change: written, checked while it is written, looked at, applied. Nothing is applied that was not shown before.

import { html, useEffect, useState } from '../vendor/preact.js';
import { ask, documentPath, path, postInTurn } from '../lib/api.js';
import { useSettled } from '../lib/poll.js';
import { href } from '../lib/router.js';
import { ReadOnly, useAccess } from './access.js';
import { Field, Notice, Panel, Trouble } from './basics.js';
import { Problems } from './code.js';
import { Meaning, TextDifference } from './difference.js';
import { Editor } from './editor.js';

const TYPING_MS = 350;

// What the server makes of the text, put in the place of what it serves: null while that is not known.
function useCheck(text) {
  const settled = useSettled(text, TYPING_MS);
  const [found, setFound] = useState({ text: null, problems: [], failure: null });
  useEffect(() => {
    const asking = new AbortController();
    const know = (told) => asking.signal.aborted || setFound({ text: settled, problems: [], failure: null, ...told });
    postInTurn('/v1/check?merge=true', settled, { signal: asking.signal }).then(
      () => know({}),
      (problem) => (problem.body?.problems ? know({ problems: problem.body.problems, more: problem.body.problems_more }) : know({ failure: problem })),
    );
    return () => asking.abort();
  }, [settled]);
  const isKnown = found.text === text;
  return { ...found, isKnown, isGood: isKnown && !found.problems.length && !found.failure };
}

// `load` reads the current version; a document that is new has none, and no `name`.
export function Change({ kind, name, version, load }) {
  const [text, setText] = useState(version.text);
  const [base, setBase] = useState(version);
  const [place, setPlace] = useState(null);
  const [review, setReview] = useState(null);
  const [done, setDone] = useState(null);
  const [clash, setClash] = useState(null);
  const { access, mayWrite, mayForce } = useAccess();
  const check = useCheck(text);
  const write = (changed) => {
    setText(changed);
    setReview(null);
    setDone(null);
  };
  const look = async (isDeletion) => {
    const query = isDeletion ? { delete: `${kind}/${name}` } : { merge: 'true' };
    try {
      const { told } = await postInTurn(path('/v1/diff', query), isDeletion ? '' : text);
      setReview({ difference: told, isDeletion });
    } catch (problem) {
      setReview({ problem, isDeletion });
    }
  };
  // Somebody else was faster: what they did is shown, and what is written here stays.
  const stale = async () => {
    const current = await load?.().catch(() => null);
    setClash({ before: base.served, current });
    if (current) setBase(current);
    setReview(null);
  };
  const applied = (told) => {
    setDone({ ...told, isDeletion: review.isDeletion });
    setReview(null);
    setClash(null);
    setBase({ text, served: text, base: String(told.revision) });
  };
  const isChanged = text !== base.served;
  return html`
    <${ReadOnly} />
    ${clash && html`<${Clash} clash=${clash} />`}
    ${done && html`<${Done} done=${done} kind=${kind} name=${name} />`}
    <${Panel} flush>
      <${Editor} text=${text} problems=${check.isKnown ? check.problems : []} onInput=${write} place=${place} />
      <div class="below" aria-live="polite"><${Checked} check=${check} onChoose=${(chosen) => setPlace({ ...chosen })} /></div>
    <//>
    <div class="actions">
      <button type="button" class="primary" disabled=${!check.isGood || !isChanged} onClick=${() => look(false)}>Show what changes</button>
      ${mayWrite && html`<p class="muted">You are <b>${access.who}</b> in the audit log.</p>`}
      ${name && html`<button type="button" class="dangerous" onClick=${() => look(true)}>Delete…</button>`}
    </div>
    ${review && html`<${Review} key=${base.base} review=${review} before=${base.served} after=${review.isDeletion ? '' : text} kind=${kind} name=${name} base=${base.base}
      mayWrite=${mayWrite} mayForce=${mayForce} access=${access} onApplied=${applied} onStale=${stale} />`}`;
}

function Checked({ check, onChoose }) {
  if (check.failure) return html`<${Trouble} problem=${check.failure} />`;
  if (!check.isKnown) return html`<p class="muted">Checking…</p>`;
  if (check.problems.length) return html`<${Problems} problems=${check.problems} more=${check.more} onChoose=${onChoose} />`;
  return html`<p class="good-words">Makes sense, also together with all others.</p>`;
}

function Clash({ clash }) {
  return html`<${Panel} title="Somebody else changed it meanwhile">
    ${clash.current ? html`<p>This is what they changed. Your text is as you left it below: take over what you want to keep of theirs, and look at the change again.</p>
      <${TextDifference} before=${clash.before} after=${clash.current.served} label="What somebody else changed" />` : html`<p>The document is there already, or it is gone. Look at what is there now, and try again.</p>`}
  <//>`;
}

function Done({ done, kind, name }) {
  return html`<${Notice} tone="good" icon="check">
    <p>${done.isDeletion ? 'Deleted' : 'Applied'}, revision ${done.revision}${done.shown ? ', and served here' : '; this replica does not serve it yet'}.
      ${' '}${name && !done.isDeletion && html`<a href=${href(kind === 'Tenant' ? ['tenants', name] : ['policies', kind, name])}>Look at it</a>, or at `}<a href=${href(['audit'])}>who did it</a>.</p>
    ${done.waiting?.length > 0 && html`<p>${done.waiting.map((refusal) => `${refusal.kind} ${refusal.name}`).join(', ')}: written, and waiting for a key that it requires.</p>`}
  <//>`;
}

function Review({ review, before, after, kind, name, base, mayWrite, mayForce, access, onApplied, onStale }) {
  const [failure, setFailure] = useState(null);
  const [reason, setReason] = useState('');
  const [isBusy, setBusy] = useState(false);
  const guarded = failure?.status === 409 && failure.body?.guarded;
  const apply = async () => {
    setBusy(true);
    try {
      onApplied(await send({ kind, name, text: after, base, isDeletion: review.isDeletion, force: guarded ? reason : '' }));
    } catch (problem) {
      setBusy(false);
      if (problem.status === 412) return onStale();
      setFailure(problem);
    }
  };
  const verb = review.isDeletion ? 'Delete' : 'Apply';
  return html`<${Panel} title=${review.isDeletion ? `Delete ${kind} ${name}?` : 'What changes'} note=${`made from revision ${base}`}>
    ${review.problem ? html`<${Trouble} problem=${review.problem}><${Problems} problems=${review.problem.body?.problems} more=${review.problem.body?.problems_more} /><//>` : html`
      <${Meaning} difference=${review.difference} />
      <${TextDifference} before=${before} after=${after} />
      ${failure && html`<${Trouble} problem=${failure}>
        ${failure.body?.problems && html`<${Problems} problems=${failure.body.problems} more=${failure.body.problems_more} />`}
        ${guarded && html`<ul>${failure.body.guarded.map((finding) => html`<li>${finding}</li>`)}</ul>
          ${mayForce ? html`<${Field} label="The reason to do it all the same" hint="It stands in the audit log."><input name="reason" value=${reason} onInput=${(event) => setReason(event.target.value)} /><//>`
    : html`<p>An admin may do it all the same, with a reason.</p>`}`}
      <//>`}
      <div class="actions start">
        ${mayWrite ? html`<button type="button" class=${review.isDeletion ? 'dangerous' : 'primary'} disabled=${isBusy || (guarded && (!mayForce || !reason.trim()))} onClick=${apply}>${guarded ? `${verb} all the same` : verb}</button>`
    : html`<p class="muted">${access?.policies === 'files' ? 'To apply it, change the file.' : 'You may not change anything here.'}</p>`}
      </div>`}
  <//>`;
}

// Resolves with the revision that the server gave it.
async function send({ kind, name, text, base, isDeletion, force }) {
  const headers = { 'x-config-base-version': base };
  const method = isDeletion ? 'DELETE' : name ? 'PUT' : 'POST';
  const to = path(name ? documentPath(kind, name) : '/v1/apply', { force });
  return (await ask(method, to, { body: isDeletion ? undefined : text, headers })).told;
}
