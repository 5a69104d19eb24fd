// Wires the parts into JupyterLab; what they do is theirs.

import { ILayoutRestorer } from "@jupyterlab/application";
import type { JupyterFrontEnd, JupyterFrontEndPlugin } from "@jupyterlab/application";
import { ICommandPalette } from "@jupyterlab/apputils";
import { IDocumentManager } from "@jupyterlab/docmanager";
import { INotebookTracker } from "@jupyterlab/notebook";
import { IRenderMimeRegistry } from "@jupyterlab/rendermime";
import { ISettingRegistry } from "@jupyterlab/settingregistry";
import { ITranslator, nullTranslator } from "@jupyterlab/translation";
import { Token } from "@lumino/coreutils";

import { addCommands, addRefresh } from "./commands";
import { Feed } from "./feed";
import { JobHost } from "./host";
import { jobFactory } from "./mime";
import { JobPanel } from "./panel";
import { Preferences } from "./settings";
import { shellActions } from "./shellActions";
import { SidebarWidget } from "./sidebar/widget";
import { Steering } from "./steering";
import { JobTabs, OPEN_JOB } from "./tabs";
import { IResilientFeed } from "./tokens";
import type { IFeed, ISaved, IShellActions } from "./tokens";

/** The plugin that has the settings: its name is that of schema/plugin.json. */
const SETTINGS = "resilient_nb:plugin";

const IPreferencesToken = new Token<Preferences>("resilient_nb:Preferences");

/** What the plugins below share: jobs in tabs and panels. */
interface IJobs {
  readonly actions: IShellActions;
  readonly tabs: JobTabs;
  panel(job: string, saved: ISaved | null, compact: boolean, cluster?: string): JobHost;
}

const IJobsToken = new Token<IJobs>("resilient_nb:Jobs");

const preferences: JupyterFrontEndPlugin<Preferences> = {
  id: SETTINGS,
  description: "The settings of resilient_nb.",
  autoStart: true,
  optional: [ISettingRegistry],
  provides: IPreferencesToken,
  activate: async (_: JupyterFrontEnd, registry: ISettingRegistry | null) => {
    const preferences = new Preferences();
    try {
      const settings = await registry?.load(SETTINGS);
      if (settings) {
        preferences.follow(settings);
      }
    } catch (error) {
      console.error("resilient_nb: the settings can't be read; the defaults are used.", error);
    }
    return preferences;
  }
};

const feed: JupyterFrontEndPlugin<IFeed> = {
  id: "resilient_nb:feed",
  description: "Provides the live state of jobs, and what can be done with them.",
  autoStart: true,
  requires: [IPreferencesToken],
  optional: [ITranslator],
  provides: IResilientFeed,
  activate: (app: JupyterFrontEnd, preferences: Preferences, translator: ITranslator | null) => {
    const trans = words(translator);
    let { address } = preferences.now;
    const feed = new Feed(app.serviceManager.serverSettings, address, trans);
    preferences.changed.connect((_, now) => {
      if (now.address !== address) {
        address = now.address;
        feed.connect(address);
      }
    });
    addRefresh(app.commands, trans, () => feed.connect(address));
    return feed;
  }
};

const jobs: JupyterFrontEndPlugin<IJobs> = {
  id: "resilient_nb:jobs",
  description: "Shows jobs in tabs of the main area.",
  autoStart: true,
  requires: [IResilientFeed, IPreferencesToken],
  optional: [ITranslator, ILayoutRestorer, IDocumentManager, INotebookTracker],
  provides: IJobsToken,
  activate: (
    app: JupyterFrontEnd,
    feed: IFeed,
    preferences: Preferences,
    translator: ITranslator | null,
    restorer: ILayoutRestorer | null,
    documents: IDocumentManager | null,
    notebooks: INotebookTracker | null
  ) => {
    const trans = words(translator);
    const openJob = (job: string) => void app.commands.execute(OPEN_JOB, { job });
    const actions = shellActions({ trans, documents, notebooks, openJob });
    const panel = (id: string, saved: ISaved | null, compact: boolean, cluster?: string) =>
      new JobHost(id, preferences, set => {
        // In a tab there is no need for a button that opens one.
        const own = compact ? actions : { ...actions, openJob: undefined };
        const { refresh, panel: sections } = set;
        const shown = { compact, refresh, sections };
        return new JobPanel({ feed, id, saved, cluster, actions: own, trans, ...shown });
      });
    const tabs = new JobTabs({ app, feed, trans, restorer, panel: job => panel(job, null, false) });
    return { actions, tabs, panel };
  }
};

const output: JupyterFrontEndPlugin<void> = {
  id: "resilient_nb:output",
  description: "Draws submitted cells as live panels.",
  autoStart: true,
  requires: [IRenderMimeRegistry, IJobsToken],
  optional: [ITranslator],
  activate: (
    _: JupyterFrontEnd,
    registry: IRenderMimeRegistry,
    jobs: IJobs,
    translator: ITranslator | null
  ) => {
    const trans = words(translator);
    registry.addFactory(
      jobFactory({
        panel: (job, saved, cluster) => jobs.panel(job, saved, true, cluster),
        broken: why =>
          why === "newer"
            ? trans.__("This was saved by a newer resilient_nb. Update it to see the job here.")
            : trans.__("There is no job in this output. Run the cell again to have one.")
      })
    );
  }
};

const sidebar: JupyterFrontEndPlugin<void> = {
  id: "resilient_nb:sidebar",
  description: "The sidebar with all jobs and the cluster, and the commands.",
  autoStart: true,
  requires: [IResilientFeed, IPreferencesToken, IJobsToken],
  optional: [ITranslator, ILayoutRestorer, ICommandPalette],
  activate: (
    app: JupyterFrontEnd,
    feed: IFeed,
    preferences: Preferences,
    { actions, tabs }: IJobs,
    translator: ITranslator | null,
    restorer: ILayoutRestorer | null,
    palette: ICommandPalette | null
  ) => {
    const trans = words(translator);
    const steering = new Steering(feed, actions, trans);
    const cancel = (job: string) => void steering.cancel(job);
    const sidebar = new SidebarWidget({ feed, actions, preferences, trans, cancel });
    const place = () => app.shell.add(sidebar, preferences.now.side, { rank: 350 });
    place();
    restorer?.add(sidebar, sidebar.id);
    let { side } = preferences.now;
    preferences.changed.connect((_, now) => {
      if (now.side !== side) {
        side = now.side;
        place();
      }
    });
    addCommands({ app, feed, actions, steering, tabs, sidebar, palette, trans });
    tabs.restore();
  }
};

function words(translator: ITranslator | null) {
  return (translator ?? nullTranslator).load("resilient_nb");
}

export * from "./tokens";
export default [preferences, feed, jobs, output, sidebar];
