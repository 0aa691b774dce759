// Elements without a framework. Text is always set as text: nothing that a catalogue says becomes markup.

export const $ = (id) => document.getElementById(id);

export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";
export function s(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

export function say(element, text, bad = false) {
  element.textContent = text;
  element.classList.toggle("bad", bad);
}

export function options(select, values, chosen) {
  select.replaceChildren(...values.map(([value, text]) => h("option", { value }, text)));
  if (values.some(([value]) => value === chosen)) select.value = chosen;
}
