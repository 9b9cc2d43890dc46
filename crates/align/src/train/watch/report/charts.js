for (const script of document.querySelectorAll('figure.chart > script')) {
  const [[first, last], ...lines] = JSON.parse(script.textContent);
  const figure = script.parentElement, area = figure.querySelector('.area');
  const names = [...figure.querySelectorAll('.key')].map(key => key.firstChild.nextSibling.textContent.trim());
  let cursor, tip;
  const leave = () => { cursor?.remove(); tip?.remove(); cursor = tip = null };
  area.onpointerleave = leave;
  area.onpointermove = event => {
    const box = area.getBoundingClientRect();
    const at = first + (event.clientX - box.left) / box.width * (last - first);
    const nearest = steps => {
      let low = 0, high = steps.length - 1;
      while (low < high) { const mid = (low + high) >> 1; if (steps[mid] < at) low = mid + 1; else high = mid }
      return low > 0 && at - steps[low - 1] < steps[low] - at ? low - 1 : low;
    };
    leave();
    cursor = document.createElement('div');
    cursor.className = 'cursor';
    tip = document.createElement('div');
    tip.className = 'tip';
    let step = null;
    lines.forEach(([steps, values], i) => {
      if (!steps.length) return;
      const n = nearest(steps);
      step ??= steps[n];
      const row = document.createElement('div');
      row.className = 'c' + i;
      const value = values[n] === null ? 'not finite' : values[n].toLocaleString('en', { maximumSignificantDigits: 4 });
      row.textContent = (lines.length > 1 ? names[i] + ' ' : '') + value;
      tip.append(row);
    });
    if (step === null) return;
    tip.prepend('step ' + step.toLocaleString('en'));
    const place = (step - first) / (last - first || 1) * 100;
    cursor.style.left = place + '%';
    tip.style[place > 50 ? 'right' : 'left'] = `calc(${place > 50 ? 100 - place : place}% + .6rem)`;
    area.append(cursor, tip);
  };
}
