// When a panel draws: so many times a second at most, with the screen, and only while it is seen.

import type { IDisposable } from "@lumino/disposable";

/** Calls `draw` after each `ask`, but never more often than it is allowed to. */
export class Pace implements IDisposable {
  /**
   * @param draw - what to do.
   * @param perSecond - how often, at most.
   */
  constructor(
    private readonly draw: () => void,
    perSecond: number
  ) {
    this.gap = 1000 / Math.max(0.1, perSecond);
  }

  /** Something is new. It is drawn soon, or once it can be seen. */
  ask(): void {
    this.wanted = true;
    this.plan();
  }

  get paused(): boolean {
    return this._paused;
  }

  /** Nobody sees it, or somebody does again. */
  set paused(value: boolean) {
    this._paused = value;
    if (value) {
      this.stop();
    } else {
      this.plan();
    }
  }

  get isDisposed(): boolean {
    return this.disposed;
  }

  dispose(): void {
    this.disposed = true;
    this.stop();
  }

  private plan(): void {
    if (!this.wanted || this._paused || this.disposed || this.timer || this.frame) {
      return;
    }
    const wait = this.last + this.gap - performance.now();
    if (wait <= 0) {
      this.frame = requestAnimationFrame(() => this.run());
    } else {
      this.timer = window.setTimeout(() => {
        this.timer = 0;
        this.frame = requestAnimationFrame(() => this.run());
      }, wait);
    }
  }

  private run(): void {
    this.frame = 0;
    this.wanted = false;
    this.last = performance.now();
    this.draw();
  }

  private stop(): void {
    window.clearTimeout(this.timer);
    cancelAnimationFrame(this.frame);
    this.timer = this.frame = 0;
  }

  private readonly gap: number;
  private wanted = false;
  private _paused = false;
  private disposed = false;
  private last = -Infinity;
  private timer = 0;
  private frame = 0;
}
