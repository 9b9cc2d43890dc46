// Questions about the picture of the side view, if the server has a language model that sees.

import { Refused, ask, events, file } from './api.js';
import { h } from './dom.js';

let seeing = null;

/** Such a model, if there is one; asked once. */
function sees() {
  const found = ({ data }) => data.find(model => model.chat && model.modalities.includes('image'));
  return seeing ??= ask('v1/models').then(found).catch(error => { seeing = null; throw error });
}

/** A section that shows itself when there is somebody to ask. `signal` ends an answer when another picture is looked at. */
export function talk(key, signal) {
  const input = h('input', { type: 'text', maxlength: 4000, placeholder: 'What is in this picture?', 'aria-label': 'A question about the picture' });
  const said = h('div', { 'aria-live': 'polite' });
  const button = h('button', {}, 'Ask');
  const form = h('form', { autocomplete: 'off' }, input, button);
  const section = h('section', { class: 'talk', hidden: true }, h('h3', {}, 'Ask about it'), said, form);
  const messages = [];
  let picture = null;
  form.addEventListener('submit', async event => {
    event.preventDefault();
    const question = input.value.trim() || input.placeholder;
    const answer = h('p', { class: 'busy' });
    said.append(h('p', { class: 'asked' }, question), answer);
    input.value = '';
    button.disabled = true;
    try {
      picture ??= await file(key, signal);
      const first = [{ type: 'image_url', image_url: { url: picture } }, { type: 'text', text: question }];
      const asked = { role: 'user', content: messages.length ? question : first };
      // a quarter of what the model reads: the next question must fit, too
      const most = Math.max(1, Math.min(256, Math.floor((await sees()).max_tokens / 4)));
      const body = { messages: [...messages, asked], max_tokens: most, stream: true };
      for await (const { choices, error } of events('v1/chat/completions', { body, signal })) {
        if (error) throw new Refused(500, error);
        answer.append(choices[0]?.delta.content ?? '');
      }
      messages.push(asked, { role: 'assistant', content: answer.textContent });
      if (!answer.textContent.trim()) answer.textContent = '(It says nothing.)';
    } catch (error) {
      if (error instanceof Refused) answer.textContent = error.message;
      else if (!signal.aborted) throw error;
    } finally {
      answer.classList.remove('busy');
      button.disabled = false;
    }
  });
  sees().then(model => section.hidden = !model, () => {});
  return section;
}
