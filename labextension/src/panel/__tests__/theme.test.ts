import "./jsdom";

import { coloursAt } from "../theme";

describe("coloursAt", () => {
  it("tells nothing of an element that has no theme, and leaves nothing in it", () => {
    const element = document.body.appendChild(document.createElement("div"));
    expect(coloursAt(element)).toBeNull();
    expect(element.childElementCount).toBe(0);
    element.remove();
  });

  it("tells what there is with one", () => {
    const element = document.body.appendChild(document.createElement("div"));
    element.style.setProperty("--jp-border-color2", "grey");
    expect(coloursAt(element)?.lines).toHaveLength(4);
    expect(element.childElementCount).toBe(0);
    element.remove();
  });
});
