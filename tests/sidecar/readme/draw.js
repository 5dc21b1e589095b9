// Draws the page that the browser shows as an SVG: boxes, texts and charts where they stand, down to the end of the section
// with the id `last`. Returns its lines, with the colours as the browser computes them.
const number = value => String(Math.round(value * 10) / 10);
const escape = text => text.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/"/g, '&quot;');
const end = document.getElementById(arguments[0]).closest('section').getBoundingClientRect().bottom;
const canvas = document.createElement('canvas').getContext('2d');
const lines = [];

function box(element, style, at) {
    const filled = !/, 0\)$|^transparent$/.test(style.backgroundColor);
    const border = parseFloat(style.borderTopWidth) > 0 && style.borderTopStyle != 'none';
    if (!filled && !border || !at.width || element == document.body) return;
    const radius = Math.min(parseFloat(style.borderTopLeftRadius) * (/%/.test(style.borderTopLeftRadius) ? at.width / 100 : 1), at.height / 2);
    const inset = border ? .5 : 0;
    lines.push(`<rect x="${number(at.left + inset)}" y="${number(at.top + inset)}" width="${number(at.width - 2 * inset)}"`
        + ` height="${number(at.height - 2 * inset)}" rx="${number(radius)}" fill="${filled ? style.backgroundColor : 'none'}"`
        + (border ? ` stroke="${style.borderTopColor}"` : '') + '/>');
}

function text(node, style) {
    const words = node.data.matchAll(/\S+/g), rows = [];
    for (const word of words) {
        const range = document.createRange();
        range.setStart(node, word.index);
        range.setEnd(node, word.index + word[0].length);
        const at = range.getBoundingClientRect(), row = rows.at(-1);
        if (row && Math.abs(row.top - at.top) < 2) Object.assign(row, {right: at.right, text: `${row.text} ${word[0]}`});
        else rows.push({left: at.left, right: at.right, top: at.top, text: word[0]});
    }
    canvas.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
    const ascent = canvas.measureText('x').fontBoundingBoxAscent;
    for (const row of rows.filter(row => row.right > row.left)) {
        const shown = style.textTransform == 'uppercase' ? row.text.toUpperCase() : row.text;
        const mono = /mono/.test(style.fontFamily.split(',')[0]) ? ' font-family="ui-monospace, monospace"' : '';
        lines.push(`<text x="${number(row.left)}" y="${number(row.top + ascent)}" textLength="${number(row.right - row.left)}"`
            + ` font-size="${parseFloat(style.fontSize)}" font-weight="${style.fontWeight}" fill="${style.color}"${mono}>${escape(shown)}</text>`);
    }
}

function chart(svg, at) {
    lines.push(`<svg x="${number(at.left)}" y="${number(at.top)}" width="${number(at.width)}" height="${number(at.height)}"`
        + ` viewBox="${svg.getAttribute('viewBox')}" preserveAspectRatio="none">`);
    for (const path of svg.querySelectorAll('path')) {
        const style = getComputedStyle(path);
        if (!path.getAttribute('d')) continue;
        lines.push(`<path d="${path.getAttribute('d')}" fill="${style.fill}" stroke="${style.stroke}" stroke-width="${parseFloat(style.strokeWidth)}"`
            + ` stroke-dasharray="${style.strokeDasharray}" opacity="${style.opacity}" vector-effect="non-scaling-stroke"/>`);
    }
    lines.push('</svg>');
}

(function walk(element) {
    const style = getComputedStyle(element), at = element.getBoundingClientRect();
    if (!element.checkVisibility() || at.top > end || at.right < 0 || style.clipPath != 'none') return;
    if (element.tagName == 'svg') return chart(element, at);
    box(element, style, at);
    for (const child of element.childNodes) {
        if (child.nodeType == 3) text(child, style);
        else if (child.nodeType == 1 && !/^(SCRIPT|STYLE)$/.test(child.tagName)) walk(child);
    }
})(document.body);
return {lines, width: innerWidth, height: Math.ceil(end + 20), page: getComputedStyle(document.body).backgroundColor};
