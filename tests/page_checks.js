// What a page must hold for everybody, as tests ask it in the browser: an object of lists of what does not.
() => {
  const nameless = [...document.querySelectorAll("input, select, textarea, button, [role=slider], [role=application]")]
    .filter((e) => !(e.labels?.length || e.getAttribute("aria-label") || e.textContent.trim() || e.title))
    .map((e) => e.outerHTML);

  // WCAG 2.2, 1.4.3: 4.5 to 1.
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour) =>
    colour
      .slice(0, 3)
      .map((v) => v / 255)
      .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
      .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour[3] > 250) return colour;
    }
    return [255, 255, 255, 255];
  };
  const text = (e) => [...e.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  const pale = [...document.querySelectorAll("#panel *")]
    .filter((e) => e.offsetParent && !e.disabled && text(e))
    .map((e) => {
      const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))].sort((p, q) => q - p);
      return [`${e.tagName} ${e.textContent.trim().slice(0, 40)}`, +((a + 0.05) / (b + 0.05)).toFixed(2)];
    })
    .filter(([, ratio]) => ratio < 4.5);
  return { nameless, pale };
};
