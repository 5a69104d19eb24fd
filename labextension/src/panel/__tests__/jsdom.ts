// What every browser has and jsdom lacks. To be imported before what is tested.

import { TextDecoder, TextEncoder } from "util";

Object.assign(globalThis, { TextDecoder, TextEncoder });
Element.prototype.scrollTo ??= () => undefined;
