import { Pace } from "../pace";

describe("Pace", () => {
  beforeEach(() => jest.useFakeTimers());
  afterEach(() => jest.useRealTimers());

  it("draws at once, and then no more often than it may", () => {
    const draw = jest.fn();
    const pace = new Pace(draw, 4);
    for (let i = 0; i < 100; i++) {
      pace.ask();
      jest.advanceTimersByTime(10);
    }
    expect(draw.mock.calls.length).toBeGreaterThanOrEqual(4);
    expect(draw.mock.calls.length).toBeLessThanOrEqual(5);
    pace.dispose();
  });

  it("draws nothing while it is paused, and what was asked for after it", () => {
    const draw = jest.fn();
    const pace = new Pace(draw, 4);
    pace.paused = true;
    pace.ask();
    jest.advanceTimersByTime(5000);
    expect(draw).not.toHaveBeenCalled();
    pace.paused = false;
    jest.advanceTimersByTime(50);
    expect(draw).toHaveBeenCalledTimes(1);
    jest.advanceTimersByTime(5000);
    expect(draw).toHaveBeenCalledTimes(1);
    pace.dispose();
  });

  it("draws nothing once it is disposed", () => {
    const draw = jest.fn();
    const pace = new Pace(draw, 4);
    pace.ask();
    pace.dispose();
    jest.advanceTimersByTime(5000);
    expect(draw).not.toHaveBeenCalled();
  });
});
