// A plain terminal: lines that scroll back, and a cursor in the last of them. Carriage return, line
// feed, backspace, tab and the sequences that erase or move within a line are followed (ECMA-48);
// colours and whatever else steers a screen are passed over. For editors there is the screen.

const LINES_MAX = 5000;
const COLUMNS_MAX = 4096;

export class Terminal {
    constructor(element, send) {
        this.element = element;
        this.send = send;
        this.lines = [];
        this.line = [];
        this.column = 0;
        this.sequence = null;
        this.queued = false;
        element.addEventListener('keydown', (event) => this.key(event));
        element.addEventListener('paste', (event) => {
            event.preventDefault();
            this.send(event.clipboardData.getData('text').replace(/\r?\n/g, '\r'));
        });
    }

    clear() {
        this.lines = [];
        this.line = [];
        this.column = 0;
        this.sequence = null;
        this.draw();
    }

    write(text) {
        for (const character of text) {
            if (this.sequence !== null) {
                this.escape(character);
            } else {
                this.plain(character);
            }
        }
        this.draw();
    }

    plain(character) {
        switch (character) {
            case '\x1b': this.sequence = ''; break;
            case '\r': this.column = 0; break;
            case '\n': this.feed(); break;
            case '\b': this.column = Math.max(0, this.column - 1); break;
            case '\t': this.column = Math.min(COLUMNS_MAX, (this.column + 8) & ~7); break;
            default:
                if (character >= ' ' && character !== '\x7f') {
                    if (this.column >= COLUMNS_MAX) {
                        this.feed();
                        this.column = 0;
                    }
                    while (this.line.length < this.column) {
                        this.line.push(' ');
                    }
                    this.line[this.column] = character;
                    this.column += 1;
                }
        }
    }

    feed() {
        this.lines.push(this.line.join(''));
        this.line = [];
        if (this.lines.length > LINES_MAX) {
            this.lines.splice(0, this.lines.length - LINES_MAX);
        }
    }

    // What follows an escape: CSI with parameters, OSC up to its end, or one or two characters.
    escape(character) {
        this.sequence += character;
        const sequence = this.sequence;
        const first = sequence[0];
        let done;
        if (first === '[') {
            done = sequence.length > 1 && character >= '@' && character <= '~';
        } else if (first === ']') {
            done = character === '\x07' || sequence.endsWith('\x1b\\');
        } else {
            done = !'()#%'.includes(first) || sequence.length > 1;
        }
        if (!done && sequence.length < 256) {
            return;
        }
        this.sequence = null;
        if (first === '[' && done) {
            this.control(sequence.slice(1, -1), character);
        }
    }

    control(parameters, final) {
        const number = parseInt(parameters, 10);
        const count = Math.min(COLUMNS_MAX, number || 1);
        switch (final) {
            case 'C': this.column = Math.min(COLUMNS_MAX, this.column + count); break;
            case 'D': this.column = Math.max(0, this.column - count); break;
            case 'G': this.column = count - 1; break;
            case 'P': this.line.splice(this.column, count); break;
            case '@': this.line.splice(this.column, 0, ...Array(count).fill(' ')); break;
            case 'K':
                if (number === 1) {
                    this.line.fill(' ', 0, this.column + 1);
                } else if (number === 2) {
                    this.line = [];
                } else {
                    this.line.length = Math.min(this.line.length, this.column);
                }
                break;
            case 'J':
                if (number === 2 || number === 3) {
                    this.clear();
                } else {
                    this.line.length = Math.min(this.line.length, this.column);
                }
                break;
        }
    }

    draw() {
        if (this.queued) {
            return;
        }
        this.queued = true;
        requestAnimationFrame(() => {
            this.queued = false;
            const box = this.element.parentElement;
            const atEnd = box.scrollTop + box.clientHeight >= box.scrollHeight - 8;
            const before = this.line.slice(0, this.column).join('').padEnd(this.column);
            const cursor = document.createElement('span');
            cursor.className = 'cursor';
            cursor.textContent = this.line[this.column] ?? ' ';
            const past = this.lines.length ? this.lines.join('\n') + '\n' : '';
            const after = this.line.slice(this.column + 1).join('');
            this.element.replaceChildren(past + before, cursor, after);
            if (atEnd) {
                box.scrollTop = box.scrollHeight;
            }
        });
    }

    key(event) {
        if (event.isComposing || event.metaKey) {
            return;
        }
        const named = {
            Enter: '\r', Backspace: '\x7f', Tab: '\t', Escape: '\x1b', Delete: '\x1b[3~',
            ArrowUp: '\x1b[A', ArrowDown: '\x1b[B', ArrowRight: '\x1b[C', ArrowLeft: '\x1b[D',
            Home: '\x1b[H', End: '\x1b[F', PageUp: '\x1b[5~', PageDown: '\x1b[6~',
        };
        let text = null;
        if (Object.hasOwn(named, event.key)) {
            // Shift-Tab leaves, for those who have no pointer.
            text = event.key === 'Tab' && event.shiftKey ? null : named[event.key];
        } else if ([...event.key].length === 1) {
            if (event.ctrlKey && !event.altKey) {
                // Ctrl-Shift-C and Ctrl-Shift-V are the browser's; Ctrl-V pastes.
                const code = event.key.toUpperCase().charCodeAt(0);
                const pastes = code === 0x56;
                text = !event.shiftKey && !pastes && code >= 0x40 && code <= 0x5f
                    ? String.fromCharCode(code & 0x1f) : null;
            } else {
                const alt = event.altKey && !event.getModifierState('AltGraph');
                text = (alt ? '\x1b' : '') + event.key;
            }
        }
        if (text !== null) {
            event.preventDefault();
            this.send(text);
        }
    }
}
