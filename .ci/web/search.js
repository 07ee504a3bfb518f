// The search of the site, in place of a fuzzy one: every word must occur; names and titles count more than text.
window.Fuse = class {
  constructor(entries) {
    this.entries = entries.map(item => ({ item, title: item.title.toLowerCase(), section: item.section.toLowerCase(), text: item.text.toLowerCase(),
      page: item.href.toLowerCase().replace(/#.*/, '').replace(/^.*\//, '') }))
  }

  static score(field, word, weight) { // a whole word, the beginning of one, or a part of one
    const at = field.indexOf(word)
    if (at < 0) return 0
    const whole = new RegExp('(^|[^a-z0-9_])' + word.replace(/[.*+?^${}()|[\]\\]/g, '\\$&') + '($|[^a-z0-9_])').test(field)
    return weight * (whole ? 3 : at === 0 || /[^a-z0-9]/.test(field[at - 1]) ? 2 : 1)
  }

  search(query, { limit }) {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean), hits = []
    for (const { item, title, section, text, page } of this.entries) {
      let total = item.section ? 0 : 1
      for (const word of words) {
        const titled = Math.max(Fuse.score(title, word, 4), Fuse.score(page, word, 4)), most = Fuse.score(section, word, 5)
        const some = Math.max(item.section ? most : 4 * titled, Fuse.score(text, word, 1) + titled / 4)
        if (!some) { total = 0; break }
        total += some
      }
      if (total > 1) hits.push({ item, total })
    }
    return hits.sort((a, b) => b.total - a.total).slice(0, limit)
  }
}
