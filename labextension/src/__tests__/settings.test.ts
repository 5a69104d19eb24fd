import schema from "../../schema/plugin.json";
import { served } from "../served";
import { DEFAULTS, Preferences, preferences } from "../settings";

test("the defaults are those of the schema", () => {
  const { side, scope, refresh, address, sidebar, panel } = schema.properties;
  expect(DEFAULTS).toEqual({
    side: side.default,
    scope: scope.default,
    refresh: refresh.default,
    address: address.default,
    sidebar: defaults(sidebar.properties),
    panel: defaults(panel.properties)
  });
});

function defaults(properties: Readonly<Record<string, { default: boolean }>>): object {
  return Object.fromEntries(Object.entries(properties).map(([name, p]) => [name, p.default]));
}

test("what is missing or of another kind is the default", () => {
  expect(preferences({})).toEqual(DEFAULTS);
  expect(preferences({ side: 3, scope: "x", refresh: "4", sidebar: [], panel: null })).toEqual(
    DEFAULTS
  );
});

test("what is set is taken, within its bounds", () => {
  const set = preferences({ refresh: 60, address: " tcp://a:1 ", panel: { ranks: false, x: 1 } });
  expect(set.refresh).toBe(4);
  expect(set.address).toBe("tcp://a:1");
  expect(set.panel).toEqual({ ...DEFAULTS.panel, ranks: false });
});

test("they follow the settings", () => {
  let changed = () => {};
  const settings = {
    composite: { side: "left" },
    changed: { connect: (slot: () => void) => (changed = slot) }
  };
  const followed = new Preferences();
  followed.follow(settings as never);
  const heard: string[] = [];
  followed.changed.connect((_, now) => heard.push(now.side));
  settings.composite = { side: "right" };
  changed();
  expect(followed.now.side).toBe("right");
  expect(heard).toEqual(["right"]);
});

test("a notebook is found below the server's root only", () => {
  expect(served("a/b.ipynb", "/home/ann")).toBe("a/b.ipynb");
  expect(served("/home/ann/a/b.ipynb", "/home/ann")).toBe("a/b.ipynb");
  expect(served("/home/bob/b.ipynb", "/home/ann")).toBeNull();
  expect(served("/home/ann/b.ipynb", "")).toBeNull();
  expect(served("", "/home/ann")).toBeNull();
});
