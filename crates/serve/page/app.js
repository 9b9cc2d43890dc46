"use strict";
document.getElementById("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = await fetch("/v1/search", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ query: document.getElementById("query").value }),
  });
  const { hits = [] } = await answer.json();
  document.getElementById("hits").replaceChildren(...hits.map((hit) => {
    const image = Object.assign(new Image(), { src: hit.thumbnail, alt: hit.name, title: hit.score.toFixed(3) });
    const item = document.createElement("li");
    item.append(image);
    return item;
  }));
});
