// Decisions a second over the last five minutes: what passed, and on top of it what was denied.

import { html, useLayoutEffect, useRef, useState } from '../vendor/preact.js';
import { count, micros, percent, rate, time } from '../lib/format.js';

const SECONDS = 300;
const HEIGHT = 180;
const MARGIN = { top: 12, right: 8, bottom: 22, left: 44 };

export function TrafficChart({ seconds }) {
  const box = useRef(null);
  const [width, setWidth] = useState(0);
  const [pointed, setPointed] = useState(null);
  // Readers of screens are told what keys point at, and not what a mouse passes over.
  const [isStepped, setStepped] = useState(false);
  useLayoutEffect(() => {
    const measure = new ResizeObserver(([entry]) => setWidth(Math.floor(entry.contentRect.width)));
    measure.observe(box.current);
    return () => measure.disconnect();
  }, []);

  const end = seconds.length ? Date.parse(seconds.at(-1).at) / 1000 : 0;
  const shown = seconds.filter((second) => Date.parse(second.at) / 1000 > end - SECONDS);
  const most = niceMax(Math.max(1, ...shown.map((second) => second.decisions)));
  const plot = { width: Math.max(0, width - MARGIN.left - MARGIN.right), height: HEIGHT - MARGIN.top - MARGIN.bottom };
  const x = (second) => MARGIN.left + plot.width * (1 - (end - Date.parse(second.at) / 1000) / (SECONDS - 1));
  const y = (value) => MARGIN.top + plot.height * (1 - value / most);
  const passed = (second) => second.decisions - second.denied;
  const at = pointed === null ? null : shown[Math.min(pointed, shown.length - 1)];

  const point = (event) => {
    const left = event.clientX - box.current.getBoundingClientRect().left;
    const nearest = shown.reduce((best, second, index) => (Math.abs(x(second) - left) < Math.abs(x(shown[best]) - left) ? index : best), 0);
    setStepped(false);
    setPointed(shown.length ? nearest : null);
  };
  const step = (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || !shown.length) return;
    event.preventDefault();
    setStepped(true);
    setPointed(Math.max(0, Math.min(shown.length - 1, (pointed ?? shown.length) + by)));
  };
  return html`<figure class="chart">
    <figcaption>
      <span class="key passed">Passed</span><span class="key denied">Denied</span>
      <output aria-live=${isStepped ? 'polite' : 'off'}>${at ? readout(at) : ' '}</output>
    </figcaption>
    <div ref=${box} class="canvas" tabindex="0" role="img" aria-label=${summary(shown)}
      onPointerMove=${point} onPointerLeave=${() => setPointed(null)} onKeyDown=${step} onBlur=${() => setPointed(null)}>
      ${width > 0 && html`<svg width=${width} height=${HEIGHT} aria-hidden="true">
        <defs><pattern id="stripes" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect class="stripe-ground" width="5" height="5" /><rect class="stripe" width="2" height="5" /></pattern></defs>
        ${[0, 0.5, 1].map((part) => html`<g key=${part} class="grid">
          <line x1=${MARGIN.left} x2=${width - MARGIN.right} y1=${y(part * most)} y2=${y(part * most)} />
          <text x=${MARGIN.left - 8} y=${y(part * most) + 4} text-anchor="end">${rate(part * most)}</text>
        </g>`)}
        ${(plot.width < 400 ? [4, 2, 0] : [5, 4, 3, 2, 1, 0]).map((minutes) => html`<text key=${minutes} class="tick" y=${HEIGHT - 6}
          x=${MARGIN.left + plot.width * (1 - minutes / 5)} text-anchor=${minutes === 5 ? 'start' : minutes === 0 ? 'end' : 'middle'}>${minutes === 0 ? 'now' : `−${minutes} min`}</text>`)}
        <path class="passed-area" d=${area(shown, x, (second) => y(passed(second)), () => y(0))} />
        <path class="denied-area" d=${area(shown, x, (second) => y(second.decisions), (second) => y(passed(second)))} />
        <path class="passed-line" d=${line(shown, x, (second) => y(passed(second)))} />
        <path class="denied-line" d=${line(shown, x, (second) => y(second.decisions), (second) => second.denied > 0)} />
        ${at && html`<line class="cursor" x1=${x(at)} x2=${x(at)} y1=${MARGIN.top} y2=${y(0)} />`}
      </svg>`}
    </div>
  </figure>`;
}

function readout(second) {
  return html`<b>${time(second.at)}</b> ${count(second.decisions)} decisions, ${count(second.denied)} denied (${percent(second.denied, second.decisions)})${second.failed > 0 && `, ${count(second.failed)} not decided`}${second.p99_us !== undefined && second.p99_us !== null && `, p99 ${micros(second.p99_us)}`}`;
}

function summary(seconds) {
  const all = totals(seconds);
  if (!all.decisions) return 'Decisions of the last five minutes: none.';
  return `Decisions of the last five minutes: ${rate(all.decisions / seconds.length)} a second on average, ${percent(all.denied, all.decisions)} denied. Arrow keys tell single seconds.`;
}

export function totals(seconds) {
  const sum = (of) => seconds.reduce((all, second) => all + of(second), 0);
  return { decisions: sum((second) => second.decisions), denied: sum((second) => second.denied), failed: sum((second) => second.failed ?? 0) };
}

// With gaps, where a condition says so.
function line(seconds, x, y, isDrawn = () => true) {
  let isGap = true;
  return seconds.map((second) => {
    const step = isGap ? 'M' : 'L';
    isGap = !isDrawn(second);
    return isGap ? '' : `${step}${x(second).toFixed(1)} ${y(second).toFixed(1)}`;
  }).join('');
}

function area(seconds, x, top, bottom) {
  if (!seconds.length) return '';
  const back = seconds.toReversed().map((second) => `L${x(second).toFixed(1)} ${bottom(second).toFixed(1)}`).join('');
  return `${line(seconds, x, top)}${back}Z`;
}

// A round number that is not much larger, and whose half is round, too.
function niceMax(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  const nice = [1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= value) * power;
  return Math.max(2, nice);
}

// A small line without axes: how something went lately.
export function Sparkline({ values, label }) {
  const most = Math.max(1, ...values);
  const points = values.map((value, index) => `${(100 * index) / Math.max(1, values.length - 1)},${19 - (18 * value) / most}`);
  return html`<svg class="spark" viewBox="0 0 100 20" preserveAspectRatio="none" role="img" aria-label=${label}><polyline points=${points.join(' ')} /></svg>`;
}
