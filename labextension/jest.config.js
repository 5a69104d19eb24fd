// Sources are only transpiled here: `tsc` checks their types.
const options = {
  tsconfig: {
    allowJs: true,
    esModuleInterop: true,
    isolatedModules: true,
    jsx: "react-jsx",
    jsxImportSource: "preact",
    module: "CommonJS",
    moduleResolution: "node10",
    target: "ES2020"
  },
  diagnostics: false
};

// Of these there are only ECMAScript modules, which jest can't load as they are.
const modules = ["@jupyter", "@jupyterlab", "@microsoft", "@rjsf", "exenv-es6", "lib0", "yjs"];

module.exports = {
  rootDir: "src",
  testEnvironment: "jsdom",
  // Without it jsdom gets preact's build for browsers, which is such a module, too.
  testEnvironmentOptions: { customExportConditions: ["node", "node-addons"] },
  setupFiles: ["<rootDir>/__tests__/setup.ts"],
  testMatch: ["**/__tests__/**/*.test.ts", "**/__tests__/**/*.test.tsx"],
  transform: { "\\.(ts|tsx|js|mjs)$": ["ts-jest", options] },
  transformIgnorePatterns: [`/node_modules/(?!(${modules.join("|")})/)`],
  moduleNameMapper: { "\\.(css|svg)$": "<rootDir>/__tests__/asset.ts" }
};
