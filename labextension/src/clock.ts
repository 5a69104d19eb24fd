// The scheduler's clock: times in views are its times, and the browser's clock may be off.

/** Seconds that the two clocks may drift apart before the difference is taken anew. */
const DRIFT = 1.0;

/** Knows how much the scheduler's clock is ahead of the browser's. */
export class Clock {
  constructor(private readonly _own: () => number = () => Date.now() / 1000) {}

  /** Return the scheduler's time, in seconds since 1970. */
  now(): number {
    return this._own() + (this._ahead ?? 0);
  }

  /** Take a time that the scheduler has just told. */
  hear(at: number): void {
    const ahead = at - this._own();
    // It took a while to come here, so the largest difference is the truest.
    if (this._ahead === null || ahead > this._ahead || ahead < this._ahead - DRIFT) {
      this._ahead = ahead;
    }
  }

  private _ahead: number | null = null;
}
