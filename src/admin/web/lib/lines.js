// The difference between two texts, by lines.

const CELLS_MAX = 4000000;
const CONTEXT = 3;

// Lines as { sign: ' ' | '-' | '+', text, before, after }, the numbers counted from 1.
export function compare(before, after) {
  const [old, now] = [before, after].map((text) => text.replace(/\n$/, '').split('\n'));
  let start = 0;
  while (start < Math.min(old.length, now.length) && old[start] === now[start]) start += 1;
  let end = 0;
  while (end < Math.min(old.length, now.length) - start && old.at(-1 - end) === now.at(-1 - end)) end += 1;
  const middle = changes(old.slice(start, old.length - end), now.slice(start, now.length - end));
  const signs = [...old.slice(0, start).map(same), ...middle, ...old.slice(old.length - end).map(same)];
  let [b, a] = [0, 0];
  return signs.map(({ sign, text }) => ({ sign, text, before: sign === '+' ? null : ++b, after: sign === '-' ? null : ++a }));
}

const same = (text) => ({ sign: ' ', text });

// By the longest common subsequence; of texts that are too long for that, all of the one goes and all of the other comes.
function changes(old, now) {
  const gone = (text) => ({ sign: '-', text });
  const come = (text) => ({ sign: '+', text });
  if (old.length * now.length > CELLS_MAX) return [...old.map(gone), ...now.map(come)];
  const width = now.length + 1;
  const longest = new Uint32Array((old.length + 1) * width);
  for (let i = old.length - 1; i >= 0; i -= 1) {
    for (let j = now.length - 1; j >= 0; j -= 1) {
      longest[i * width + j] = old[i] === now[j] ? longest[(i + 1) * width + j + 1] + 1 : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
    }
  }
  const told = [];
  let [i, j] = [0, 0];
  while (i < old.length || j < now.length) {
    if (i < old.length && j < now.length && old[i] === now[j]) {
      told.push(same(old[i]));
      i += 1;
      j += 1;
    } else if (j >= now.length || (i < old.length && longest[(i + 1) * width + j] >= longest[i * width + j + 1])) {
      told.push(gone(old[i]));
      i += 1;
    } else {
      told.push(come(now[j]));
      j += 1;
    }
  }
  return told;
}

// What changed with some lines around it; null stands for lines that are left out.
export function hunks(lines) {
  const near = lines.map(() => false);
  lines.forEach((line, index) => {
    if (line.sign === ' ') return;
    for (let at = Math.max(0, index - CONTEXT); at <= Math.min(lines.length - 1, index + CONTEXT); at += 1) near[at] = true;
  });
  const shown = [];
  lines.forEach((line, index) => {
    if (near[index]) shown.push(line);
    else if (shown.at(-1) !== null) shown.push(null);
  });
  return shown;
}
