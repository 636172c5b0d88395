// The page of a machine: its screen by noVNC where that is installed, else as a picture that
// refreshes; its serial console; its state and power.

import { Terminal } from './terminal.js';

const RETRY_MS = 3000;
const STATUS_MS = 5000;
const PICTURE_MS = 2000;

const at = (id) => document.getElementById(id);
const here = (path) => new URL(path, document.baseURI);
const socket = (path) => {
    const url = here(path);
    url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
    return url.href;
};

let rfb = null;
let secret = null;

function notice(text) {
    at('notice').textContent = text ?? '';
    at('notice').hidden = !text;
}

// The screen.

async function startScreen() {
    let RFB;
    try {
        ({ default: RFB } = await import(here('novnc/core/rfb.js').href));
    } catch {
        notice('noVNC is not installed on the server, so the screen is a picture without keyboard and '
            + 'pointer. Install the package novnc, or give --web-root; or use a VNC viewer.');
        refreshPicture();
        return;
    }
    at('keys').hidden = false;
    at('keys').addEventListener('click', () => rfb?.sendCtrlAltDel());
    connect(RFB);
}

function connect(RFB) {
    const options = secret === null ? {} : { credentials: { password: secret } };
    rfb = new RFB(at('screen'), socket('websockify'), options);
    rfb.scaleViewport = true;
    rfb.background = '#111';
    let refused = false;
    rfb.addEventListener('connect', () => {
        notice(null);
        if (!at('screen').hidden) {
            rfb.focus();
        }
    });
    rfb.addEventListener('credentialsrequired', () => askSecret());
    rfb.addEventListener('securityfailure', (event) => {
        refused = true;
        secret = null;
        notice(event.detail.reason || 'The VNC password is wrong.');
    });
    rfb.addEventListener('disconnect', () => {
        rfb = null;
        if (!refused) {
            notice('The screen is not connected; trying again.');
        }
        setTimeout(() => connect(RFB), RETRY_MS);
    });
}

function askSecret() {
    at('password').hidden = false;
    at('secret').focus();
}

at('password').addEventListener('submit', (event) => {
    event.preventDefault();
    secret = at('secret').value;
    at('secret').value = '';
    at('password').hidden = true;
    rfb?.sendCredentials({ password: secret });
});

function refreshPicture() {
    const picture = at('picture');
    picture.addEventListener('load', () => { picture.hidden = false; });
    picture.addEventListener('error', () => { picture.hidden = true; });
    let count = 0;
    const next = () => {
        if (!at('screen').hidden && !document.hidden) {
            count += 1;
            picture.src = here(`screenshot.png?${count}`).href;
        }
    };
    next();
    setInterval(next, PICTURE_MS);
}

// The serial console: connected when it is first looked at, and from then on.

let line = null;
const encoder = new TextEncoder();
const terminal = new Terminal(at('terminal'), (text) => {
    if (line?.readyState === WebSocket.OPEN) {
        line.send(encoder.encode(text));
    }
});

function attach() {
    if (line) {
        return;
    }
    const decoder = new TextDecoder();
    line = new WebSocket(socket('console'), 'binary');
    line.binaryType = 'arraybuffer';
    // The server tells the past again.
    line.addEventListener('open', () => terminal.clear());
    line.addEventListener('message', (event) => {
        terminal.write(decoder.decode(event.data, { stream: true }));
    });
    line.addEventListener('close', () => {
        line = null;
        setTimeout(attach, RETRY_MS);
    });
}

// Which of the two is shown.

function show(what) {
    for (const name of ['screen', 'console']) {
        at(name).hidden = name !== what;
        at(`show-${name}`).setAttribute('aria-pressed', String(name === what));
    }
    if (what === 'console') {
        attach();
        at('terminal').focus();
    } else {
        rfb?.focus();
    }
}

at('show-screen').addEventListener('click', () => show('screen'));
at('show-console').addEventListener('click', () => show('console'));

// State and power.

async function refreshStatus() {
    try {
        const answer = await fetch(here('status'));
        if (!answer.ok) {
            throw new Error(await answer.text());
        }
        const status = await answer.json();
        at('name').textContent = status.name;
        document.title = `${status.name} - Berth`;
        const addresses = status.nics.flatMap((nic) => nic.addresses).join(', ');
        const ready = status.ready ? 'ready' : 'not ready';
        const facts = [`${status.state}, ${ready}`, status.paused, addresses];
        at('state').textContent = facts.filter(Boolean).join('; ');
        at('state').title = status.readiness;
    } catch {
        at('state').textContent = 'no answer';
    }
    setTimeout(refreshStatus, STATUS_MS);
}

async function press(action) {
    try {
        const answer = await fetch(here('power'), { method: 'POST', body: action });
        if (!answer.ok) {
            notice((await answer.text()).trim());
        }
    } catch {
        notice('There is no answer.');
    }
}

at('power').addEventListener('click', () => press('button'));
at('reset').addEventListener('click', () => {
    if (confirm('Reset the machine? What its programs have not saved is lost.')) {
        press('reset');
    }
});

refreshStatus();
startScreen();
