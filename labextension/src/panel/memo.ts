// A view that is made again only if one of its properties is another one.

import { Component, h } from "preact";
import type { ComponentType, FunctionComponent } from "preact";

/** Return a view that skips a render if all its properties are the same as before. */
export function memo<P extends object>(view: FunctionComponent<P>): ComponentType<P> {
  return class extends Component<P> {
    shouldComponentUpdate(next: Readonly<P>): boolean {
      return differ(this.props, next);
    }

    render() {
      return h(view, this.props as P & { children?: undefined });
    }
  };
}

/** Whether two sets of properties differ. */
export function differ(a: object, b: object): boolean {
  const old = a as Record<string, unknown>;
  const now = b as Record<string, unknown>;
  const names = Object.keys(now);
  return names.length !== Object.keys(old).length || names.some(name => old[name] !== now[name]);
}
