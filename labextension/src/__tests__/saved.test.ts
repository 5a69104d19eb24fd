import { checkpoint, jobView } from "./builders";
import type { JobView } from "../protocol";
import { pieces } from "../saved";

describe("a job as a notebook's file has it", () => {
  it("is what was saved, its parts apart", () => {
    const saved = jobView({ started_at: 110, checkpoints: [checkpoint(20, { is_head: true })] });
    const { head, run } = pieces(saved);
    expect(head).toEqual({ ...saved, checkpoints: [] });
    expect(run?.head).toBe("digits/00000020-e1");
  });

  it("is whole whatever the file leaves out, or has of another kind", () => {
    const saved = { id: "digits#1", run: "digits", state: "running", after: "x", label: 5 };
    const { head, ranks, points } = pieces(saved as unknown as JobView);
    expect(head).toMatchObject({ id: "digits#1", state: "running", after: [], label: "" });
    expect(Object.keys(head ?? {}).sort()).toEqual(Object.keys(jobView()).sort());
    expect([ranks, points]).toEqual([[], {}]);
  });
});
